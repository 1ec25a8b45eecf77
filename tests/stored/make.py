"""Files as 0.1.0 writes them: ``PYTHONPATH=CHECKOUT python tests/stored/make.py FOLDER`` with a checkout of 0.1.0.

Kept so that it is known how they came about. It is not to be run with later code: what is stored is what 0.1.0 wrote.
"""

import hashlib
import json
import os
import platform
import shutil
import signal
import sys
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from safetensors import safe_open

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "transfer"
SCALED = ("--standardize", "scale-per-species")  # what 0.1.0 did unless told
FIT = ("--landmarks", "24", "--validate", "3", "--length-scale", "2x", "--baseline", "composition", *SCALED)
DIRECT = ("--ridge", "1e-8,1e-6", "--force-weight", "1e-3", "--alpha", "0,1")
FALKON = ("--solver", "falkon", "--ridge", "1e-8,1e-6", "--force-weight", "1e-3")
SUMS = ("--ridge", "1e-6", "--force-weight", "1e-3", "--sums")
OWN = ("--solver", "exact", "--ridge", "1e-6", "--validate", "2", "--length-scale", "2x", *SCALED)
SIZES = "hidden_channels=8,num_filters=8,num_interactions=2,num_gaussians=8,cutoff=4"
TRAIN = ("pretrain", "h2co.xyz", "--sizes", SIZES, "--steps", "12")
TUNE = (
    "finetune",
    "h2co.xyz",
    "--backbone",
    "schnet",
    "--checkpoint",
    "schnet.pt",
    "--steps",
    "10",
    "--lr-decay",
    "0.5",
)
MD = ("md", "model.mekrr", "start.xyz", "-o", "run.xyz", "--interval", "2", "--checkpoint", "6")
CURVE = (
    *("curve", "h2co.xyz", "--test", "more.xyz", "-o", "curve", "--sizes", "4", "--repeats", "1", "--steps", "2"),
    *("--lr", "1e-3", "--variants", "scratch:schnet-tiny,kernel", "--landmarks", "8", "--derivatives", "2"),
)
KEPT = (  # the rest is deleted in the end
    *("h2co", "more", "si", "own", "fit-direct", "fit-falkon", "sums", "training", "curve"),
    *("model.mekrr", "delta.mekrr", "student.mekrr", "schnet.pt", "tuned.pt", "student.pt"),
    *("h2co.xyz", "more.xyz", "start.xyz", "run.xyz", "run.restart.json", "predicted.xyz", "expected.json"),
    *("model.header.json", "schnet.json", "student.json", "every-key.toml", "stress.toml"),
    *("schema-1.0.mekrr", "schema-1.1.mekrr"),  # made with older code, see README.md
)


def run(*arguments: str, stop_after: int = 0, code: int = 0) -> None:
    """A command line; it gets SIGTERM when its progress has advanced ``stop_after`` times."""
    from mekrr_scale import cli
    from mekrr_scale.cli.console import Bar

    left = [stop_after]
    plain = Bar.advance

    def advance(bar: Bar, steps: int = 1) -> None:
        plain(bar, steps)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    sys.argv = ["mekrr-scale", *arguments]
    Bar.advance = advance
    try:
        cli.main()
    except SystemExit as end:
        if (end.code or 0) != code:
            raise
    finally:
        Bar.advance = plain


def coefficients(path: str) -> dict[str, object]:
    with safe_open(path, "np") as archive:
        found = archive.get_tensor("coefficients")
    return {"sha256": hashlib.sha256(found.tobytes()).hexdigest(), "values": found.tolist()}


def weights(path: str) -> str:
    state = torch.load(path, weights_only=True)["state_dict"]
    return hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()


def machine() -> dict[str, str]:
    """Where bits may be expected to be the same: the same sums in the same order.

    Processors of one name differ (virtual machines call all of theirs AMD EPYC); libraries choose by family and model.
    """
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    known = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    named = [known[name] for name in ("model name", "cpu family", "model", "stepping") if name in known]
    processor = " ".join(named) or platform.processor()
    return {"torch": torch.__version__, "processor": processor, "kernels": torch.backends.cpu.get_cpu_capability()}


def crystals() -> None:
    """Cells of two silicon atoms with made-up labels, stress among them."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(4):
        atoms = bulk("Si")
        atoms.rattle(0.1, rng=generator)
        energy = -9.6 + 0.1 * float(generator.normal())
        atoms.calc = SinglePointCalculator(
            atoms, energy=energy, forces=generator.normal(size=(2, 3)), stress=0.01 * generator.normal(size=6)
        )
        found.append(atoms)
    ase.io.write("si.xyz", found, format="extxyz")


def own_features() -> None:
    from mekrr_scale.store import FeatureWriter

    generator = np.random.default_rng(1)
    with FeatureWriter("own", "my-descriptors 1.0", dim=4, dtype="float64", shard_bytes=800) as writer:
        for i in range(8):
            numbers = np.array([1, 8, 1][: 2 + i % 2])
            features = generator.normal(size=(len(numbers), 4))
            writer.add(numbers, features, float(np.sin(features).sum()), group=i // 2)


def stores(expected: dict[str, object]) -> None:
    frames = ase.io.read(EXAMPLES / "h2co_both.xyz.xz", ":28")
    ase.io.write("h2co.xyz", frames[:24], format="extxyz")
    ase.io.write("more.xyz", frames[24:], format="extxyz")
    crystals()
    run("extract", "h2co.xyz", "-o", "h2co", "--derivatives", "2", "--shard-size", "24K")
    run("extract", "more.xyz", "-o", "more", "--derivatives", "2")
    run(
        "extract",
        "si.xyz",
        "-o",
        "si",
        "--derivatives",
        "2",
        "--strain",
        "--tangent-dtype",
        "float16",
        "--dtype",
        "float64",
    )
    own_features()
    expected["priors"] = {name: priors(name) for name in ("h2co", "more", "si")}


def priors(store: str) -> list[float]:
    from mekrr_scale.store import FeatureStore

    return [energy for batch in FeatureStore(Path(store)) for energy in batch.prior.tolist()]


def models(expected: dict[str, object]) -> None:
    run("fit", "--store", "h2co", "-o", "model.mekrr", *FIT, *DIRECT)
    run("fit", "every-key.toml")
    run("fit", "stress.toml")
    run("fit", "--store", "own", "-o", "own.mekrr", *OWN)
    delta = ("--prior", "labels", "--prior-energy-key", "energy_b3lyp", "--prior-forces-key", "forces_b3lyp")
    run("extract", "h2co.xyz", "-o", "delta", *delta)
    run("fit", "--store", "delta", "-o", "delta.mekrr", "--baseline", "prior", "--landmarks", "10", "--ridge", "1e-8")
    for name in ("model", "every-key", "stress", "own", "delta"):
        expected[name] = coefficients(f"{name}.mekrr")
    with safe_open("model.mekrr", "np") as archive:
        header = json.loads(archive.metadata()["mekrr_scale"])
    Path("model.header.json").write_text(json.dumps(header, indent=1), encoding="utf-8")
    run("predict", "model.mekrr", "more.xyz", "-o", "predicted.xyz", "--uncertainty")


def evaluations(expected: dict[str, object]) -> None:
    """What ``evaluate --json`` says, on a store and on structures."""
    found = {}
    for name in ("model", "delta", "student", "schema-1.0", "schema-1.1"):
        run("evaluate", f"{name}.mekrr", "more.xyz", "--json", "told.json")
        found[name] = json.loads(Path("told.json").read_text(encoding="utf-8"))
        if name != "delta":
            run("evaluate", f"{name}.mekrr", "h2co", "--json", "told.json")
            found[f"{name} on the store"] = json.loads(Path("told.json").read_text(encoding="utf-8"))
    expected["evaluate"] = found


def stopped_fits(expected: dict[str, object]) -> None:
    """The second candidate of Direct in the middle of its pass; Falkon between two iterations."""
    for name, options, after in (("direct", DIRECT, 10), ("falkon", FALKON, 20)):
        fit = ("fit", "--store", "h2co", *FIT, *options)
        run(*fit, "-o", "whole.mekrr")
        expected[f"fit-{name}"] = coefficients("whole.mekrr")
        kept = ("--checkpoint", f"fit-{name}", "--checkpoint-interval", "0")
        run(*fit, "-o", "stopped.mekrr", *kept, stop_after=after, code=75)
    run("fit", "--store", "h2co", "-o", "first.mekrr", *FIT, *SUMS, "sums")
    shutil.copytree("sums", "grown")
    run("fit", "--store", "h2co", "--store", "more", "-o", "second.mekrr", *FIT, *SUMS, "grown")
    expected["sums"] = [coefficients("first.mekrr"), coefficients("second.mekrr")]


def simulations(expected: dict[str, object]) -> None:
    ase.io.write("start.xyz", ase.io.read("more.xyz", 0), format="extxyz")
    run(*MD, "--steps", "12")
    state = json.loads(Path("run.restart.json").read_text(encoding="utf-8"))
    expected["md"] = {key: state[key] for key in ("step", "positions", "momenta")}
    Path("run.restart.json").unlink()
    run(*MD, "--steps", "6")


def networks(expected: dict[str, object]) -> None:
    run(*TRAIN, "-o", "schnet.pt", "--json", "schnet.json")
    run(*TRAIN, "-o", "stopped.pt", "--state", "training", "--state-interval", "0", stop_after=8, code=75)
    run(*TUNE, "-o", "tuned.pt")
    distill = (
        "distill",
        "--teacher",
        "model.mekrr",
        "--unlabelled",
        "h2co.xyz",
        "--test",
        "more.xyz",
        "--folder",
        "distilled",
    )
    small = ("--student", "kernel:chgnet", "--landmarks", "8", "--derivatives", "2")
    run(*distill, *small, "-o", "student.mekrr", "--json", "student.json")
    run(*distill, "--student", "schnet-tiny", "--steps", "4", "-o", "student.pt")
    for name in ("schnet", "tuned", "student"):
        run("extract", "more.xyz", "-o", f"by-{name}", "--backbone", "schnet", "--checkpoint", f"{name}.pt")
        expected[name] = {"sha256": weights(f"{name}.pt"), "energies": priors(f"by-{name}")}
    os.environ["TMPDIR"] = "/tmp"  # part of the curve's plan
    run(*CURVE)


def prune() -> None:
    for path in Path().iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    unread = {*Path().glob("*/*.previous.safetensors"), *Path().glob("fit-direct/trial0-alpha0-sums*")}
    for path in [*unread, Path("curve/curve.png"), Path("curve/work")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def main() -> None:
    torch.set_num_threads(1)
    here, folder = Path(__file__).parent, Path(sys.argv[1])
    folder.mkdir(parents=True)
    for file in [*(here / "0.1.0").glob("*.toml"), *(here / "0.1.0").glob("schema-*.mekrr")]:
        shutil.copy(file, folder)
    os.chdir(folder)
    expected: dict[str, object] = {"machine": machine()}
    stores(expected)
    models(expected)
    stopped_fits(expected)
    simulations(expected)
    networks(expected)
    evaluations(expected)
    Path("expected.json").write_text(json.dumps(expected, indent=1), encoding="utf-8")
    prune()


if __name__ == "__main__":
    main()
