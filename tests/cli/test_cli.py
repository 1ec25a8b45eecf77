"""The command line from outside: what works, and one clear sentence for everything that does not."""

import importlib.util
import json
import lzma
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import ase.io
import numpy as np
import pytest

from mekrr_scale import cli
from mekrr_scale.cli.app import PLACES, command
from mekrr_scale.store import FeatureStore
from tests.distributed.paused import wait_for

ROOT = Path(__file__).parents[2]


def test_listing_names_what_to_install(run):
    """Brackets are no markup: the extra is shown."""
    code, out, _ = run("backbones")
    assert code == 0
    for name in ("chgnet", "sevennet", "dimenet++", "mace", "metatomic"):
        assert f"  {name}  " in out
    if importlib.util.find_spec("mace") is None:
        assert "mekrr-scale[mace]" in out


def test_whole_path(run, toy_file, checkpoint, tmp_path):
    extraction = ("extract", toy_file, "-o", "f", "--backbone", "schnet", "--checkpoint", checkpoint)
    code, out, _ = run(*extraction, "--derivatives", 4, "--strain", "--group-key", "trajectory")
    assert code == 0
    assert "24 structures written" in out
    assert run("store", "verify", "f")[0] == 0
    code, out, _ = run("store", "info", "f", "--json")
    assert json.loads(out)["species"]["C"] > 0
    code, out, err = run("fit", "--store", "f", "-o", "m.mekrr", "--landmarks", 50, "--plot", "cv.png", "--validate", 3)
    assert code == 0, err
    assert "meV/atom" in out
    assert (tmp_path / "cv.png").stat().st_size > 5000
    code, out, err = run(
        "evaluate", "m.mekrr", toy_file, "--json", "e.json", "--plot", "p.png", "--species-plot", "s.png"
    )
    assert code == 0, err
    figures = json.loads((tmp_path / "e.json").read_text())
    assert figures["metrics"]["energy_mae"] < 10  # the composition alone leaves 85
    assert (tmp_path / "p.png").exists()
    assert (tmp_path / "s.png").exists()
    assert run("evaluate", "m.mekrr", "f")[0] == 0
    assert run("predict", "m.mekrr", toy_file, "-o", "out.xyz")[0] == 0
    assert np.isfinite(ase.io.read("out.xyz", ":")[3].get_forces()).all()
    assert run("store", "repack", "f", "-o", "g")[0] == 0
    assert run("store", "merge", "g", "-o", "h")[0] == 0
    assert run("store", "finalize", "h")[0] == 0
    assert FeatureStore(tmp_path / "h").n_structures == 24
    code, out, _ = run("backbones")
    assert "chgnet" in out
    assert run("--version")[0] == 0


def test_configuration_file(run, store, tmp_path):
    """Its paths count from its own folder; the keys are those of version 0.1.0."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "features").symlink_to(store)
    (tmp_path / "there" / "fit.toml").write_text(
        """
store = "features"
output = "m.mekrr"
validate = 3
[kernel]
alpha = [0.0, 1.0]
length_scale = "2x"
[baseline]
kind = "composition"
[landmarks]
count = 40
[solver]
ridge = [1e-6, 1e-4]
derivatives = false
"""
    )
    code, out, err = run("fit", "there/fit.toml", "--alpha", "0.5")
    assert code == 0, err
    assert out.count("centre-per-species") == 1  # the flag replaced the file's two candidates
    assert (tmp_path / "there" / "m.mekrr").exists()


def test_every_command_has_examples(run):
    for name in PLACES:
        inner = getattr(command(name), "commands", None)
        for words in [f"{name} {sub}" for sub in inner] if inner else [name]:
            code, out, _ = run(*words.split(), "--help")
            assert code == 0
            assert "Example" in out
            assert "Exit codes" in out
            assert f"mekrr-scale {words}" in out


def bad_calls():
    """(arguments, exit code, part of the message); {} are filled with paths."""
    extraction = ["extract", "{data}", "-o", "new", "--backbone", "schnet", "--checkpoint", "{checkpoint}"]
    fitting = ["fit", "--store", "{store}", "--landmarks", "20", "--validate", "3"]
    return [
        (["extract", "nothing.xyz", "-o", "s"], 3, "there is no file"),
        (["extract", "{empty}", "-o", "s"], 3, "holds no structures"),
        (["extract", "{data}", "-o", "s", "--backbone", "chgnt"], 5, "Do you mean 'chgnet'"),
        (["extract", "{data}", "-o", "s", "--layer", "conv9"], 5, "no layer 'conv9'"),
        (["extract", "{data}", "-o", "s", "--backbone", "schnet"], 5, "needs --checkpoint"),
        ([*extraction, "--derivatives", "many"], 2, "all, none, or a number"),
        ([*extraction, "--derivatives", "-2"], 2, "positive number"),
        ([*extraction, "--part", "5"], 2, "write i/n"),
        ([*extraction, "--part", "0/4"], 2, "counted from 1"),
        ([*extraction, "--shard-size", "big"], 2, "is not a size"),
        ([*extraction, "--units", "furlong"], 3, "unknown unit"),
        ([*extraction, "--units", "eV,angstrom,GPa,K"], 3, "give energy"),
        ([*extraction, "--energy-key", "enrgy"], 3, "no energy under the key"),
        ([*extraction, "--device", "cuda"], 2, "no CUDA GPU"),
        ([*extraction, "--device", "warp"], 2, "write cpu, cuda"),
        ([*extraction, "--group-key", "nope"], 3, "no info key"),
        ([*extraction, "--format", "nonsense"], 3, "cannot be read"),
        (["extract", "{data}", "-o", "{store}"], 4, "another kind"),
        (["extract", "{data}", "-o", "{file}/s", *extraction[4:]], 4, "cannot create the store"),
        (["fit"], 2, "'store' is missing"),
        (["fit", "none.toml"], 2, "no configuration file"),
        (["fit", "{broken_toml}"], 2, "not valid TOML"),
        (["fit", "{typo_toml}"], 2, "Do you mean 'length_scales'"),
        (["fit", "{type_toml}"], 2, "landmarks.count"),
        (["fit", "--store", "nowhere"], 4, "there is no store"),
        (["fit", "--store", "{unfinished}"], 4, "has not finished"),
        ([*fitting, "--ridge=-1e-3"], 2, "must be a positive number"),
        ([*fitting, "--ridge", "small"], 2, "write numbers"),
        ([*fitting, "--ridge", ""], 2, "--ridge is empty"),
        ([*fitting, "--length-scale", ","], 2, "--length-scale is empty"),
        ([*fitting, "--baseline", ""], 2, "--baseline is empty"),
        ([*fitting, "--alpha", "1.5"], 2, "alpha is 1.5"),
        ([*fitting, "--kernel", "gausian"], 2, "Do you mean 'gaussian'"),
        ([*fitting, "--solver", "magic"], 2, "no solver 'magic'"),
        ([*fitting, "--reduce", "max"], 2, "--reduce: Input should be 'sum' or 'mean'"),
        ([*fitting, "--length-scale", "-4x"], 2, "length scale"),
        ([*fitting, "--standardize", "whiten"], 2, "standardize"),
        ([*fitting, "--baseline", "isolated"], 2, "needs an energy for species"),
        ([*fitting, "--landmarks", "100000"], 2, "at most that many"),
        ([*fitting, "--landmarks", "0"], 2, "at least one"),
        ([*fitting, "--validate", "1"], 2, "at least 2"),
        ([*fitting, "--validate", "1000"], 2, "use fewer folds"),
        ([*fitting, "--validate", "100000"], 2, "use fewer folds"),
        ([*fitting, "--validate", "0"], 2, "several candidates"),
        ([*fitting, "--memory", "lots"], 2, "is not a size"),
        ([*fitting, "-o", "no/such/folder/m.mekrr"], 2, "does not exist"),
        ([*fitting, "--energy-weight", "0", "--no-derivatives"], 2, "must not be negative, and not all zero"),
        (
            [*fitting, "--kernel", "polynomial", "--kernel-parameters", "degree=200", "--length-scale", "1e-3"],
            7,
            "finite",
        ),
        (["evaluate", "none.mekrr", "{data}"], 6, "there is no model file"),
        (["evaluate", "{file}", "{data}"], 6, "not a model file"),
        (["evaluate", "{corrupt}", "{data}"], 6, "damaged"),
        (["evaluate", "{model}", "{other_store}"], 6, "another backbone"),
        (["evaluate", "{model}", "{iron}"], 3, "not among the model's species"),
        (["evaluate", "{model}", "missing.xyz"], 3, "there is no file"),
        (["predict", "{model}", "{iron}", "-o", "p.xyz"], 6, "not among the model's species"),
        (["predict", "{model}", "{data}", "-o", "no/folder/p.xyz"], 2, "does not exist"),
        (["predict", "{model}", "{data}", "-o", "{nothing}"], 2, "is a folder; name a file"),
        *(
            ([*call[:place], bad, *call[place:]], 3, text)
            for place, call in [
                (1, extraction[:1] + extraction[2:]),
                (2, ["evaluate", "{model}"]),
                (2, ["predict", "{model}", "-o", "p.xyz"]),
                (2, ["explain", "{model}", "-o", "p.xyz"]),
            ]
            for bad, text in [
                ("{cut}", "cut off or damaged"),
                ("{latin}", "not text in UTF-8"),
                ("{negative}", "a number of atoms"),
                ("{database}", "cannot be read"),
            ]
        ),
        (["store", "info", "nowhere"], 4, "there is no store"),
        (["store", "verify", "{damaged}"], 4, "damaged"),
        (["store", "finalize", "{nothing}"], 4, "no finished shard"),
        (["store", "merge", "{store}", "{other_store}", "-o", "joined"], 4, "another kind"),
        (["frobnicate"], 2, "frobnicate"),
    ]


@pytest.fixture(scope="module")
def places(toy_file, checkpoint, store, model_file, tmp_path_factory):
    import shutil

    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    from tests.store.test_store import fill

    folder = tmp_path_factory.mktemp("bad")
    texts = {
        "empty": "",
        "broken_toml": "store = [",
        "typo_toml": f'store = "{store}"\n[kernel]\nlenght_scale = "2x"\n',
        "type_toml": f'store = "{store}"\n[landmarks]\ncount = "many"\n',
        "file": "I am a file",
        "negative": "-3\n\nH 0 0 0\n",
    }
    found = {name: folder / f"{name}.{'toml' if 'toml' in name else 'xyz'}" for name in texts}
    for name, text in texts.items():
        found[name].write_text(text)
    iron = Atoms("Fe2", positions=[(0, 0, 0), (0, 0, 2)])
    iron.calc = SinglePointCalculator(iron, energy=-3.0)
    ase.io.write(folder / "iron.xyz", iron, format="extxyz")
    packed = lzma.compress(toy_file.read_bytes())
    bad = {"cut": ("cut.xyz.xz", packed[: len(packed) // 2]), "latin": ("latin.xyz", b"1\n\xc5ngstr\xf6m\nH 0 0 0\n"),
           "database": ("bad.db", b"SQLite format 3\0" + bytes(99))}  # fmt: skip
    for name, (file, content) in bad.items():
        found[name] = folder / file
        found[name].write_bytes(content)
    data = bytearray(model_file.read_bytes())
    data[-50] ^= 255
    (folder / "corrupt.mekrr").write_bytes(bytes(data))
    shutil.copytree(store, folder / "damaged")
    shard = sorted((folder / "damaged").glob("*.h5"))[0]
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(bytes(content))
    for name in ("unfinished", "nothing"):
        (folder / name).mkdir()
    fill(folder / "other", dim=16)
    return found | {
        "data": toy_file, "checkpoint": checkpoint, "store": store, "model": model_file, "iron": folder / "iron.xyz",
        "corrupt": folder / "corrupt.mekrr", "damaged": folder / "damaged", "unfinished": folder / "unfinished",
        "nothing": folder / "nothing", "other_store": folder / "other",
    }  # fmt: skip


@pytest.mark.parametrize("number", range(len(bad_calls())))
def test_bad_input(run, places, number):
    arguments, expected, message = bad_calls()[number]
    code, out, err = run(*(a.format(**places) for a in arguments))
    assert code == expected, (code, out, err)
    assert message in " ".join((out + err).split())
    assert "Traceback" not in out + err


def test_debug_shows_the_traceback(monkeypatch, places):
    from mekrr_scale.errors import StoreError

    monkeypatch.setattr(sys, "argv", ["mekrr-scale", "store", "info", "nowhere", "--debug"])
    with pytest.raises(StoreError):
        cli.main()


def test_a_full_disk(tmp_path, places):
    """What the operating system refuses is said in one sentence, and leaves no half-written shard."""
    script = tmp_path / "limited.py"
    script.write_text(
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from mekrr_scale.cli import main\n"
        "from mekrr_scale.backbones import BackboneSpec, load_backbone\n"
        "load_backbone(BackboneSpec('schnet', checkpoint=sys.argv[-1]))\n"  # torch_geometric 2.5 writes a module for it
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\n"
        "main()\n"
    )
    command = [sys.executable, str(script), "extract", str(places["data"]), "-o", str(tmp_path / "s")]
    command += ["--backbone", "schnet", "--checkpoint", str(places["checkpoint"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=_environment())
    assert done.returncode == 4, done.stderr
    assert "Free some space" in " ".join(done.stderr.split())
    assert not list((tmp_path / "s").glob("*.h5"))


def test_a_folder_that_must_not_be_written(run, places, tmp_path):
    """Root writes everywhere but into a file system that takes nothing; others are kept out by permissions."""
    folder = Path("/sys/mekrr") if os.geteuid() == 0 else tmp_path / "locked"
    if os.geteuid() != 0:
        folder.mkdir(mode=0o500)
    given = ("--backbone", "schnet", "--checkpoint", places["checkpoint"])
    code, _, err = run("extract", places["data"], "-o", folder / "s", *given)
    assert code == 4, err
    assert "choose a folder you may write to" in err


def test_interrupt(tmp_path, places, run):
    """Ctrl-C: exit code 130, one sentence, and the next run goes on: what was written is not made again."""
    command = ["extract", str(places["data"]), "-o", str(tmp_path / "s"), "--shard-size", "4K"]
    command += ["--backbone", "schnet", "--checkpoint", str(places["checkpoint"])]
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background ignores Ctrl-C
    options = {"stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": _environment(), "preexec_fn": listening}
    held = [sys.executable, "-m", "tests.distributed.paused", "shard", "2", str(tmp_path), *command]
    with subprocess.Popen(held, **options) as process:
        wait_for(tmp_path / "there-0", [process])
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "run the same command again" in " ".join(err.split())
    written = {path: path.stat().st_ino for path in tmp_path.glob("s/*.h5")}
    assert len(written) == 2
    assert not list(tmp_path.glob("s/.tmp-*"))
    code, out, err = run(*command)
    assert code == 0, err
    assert {path: path.stat().st_ino for path in written} == written
    assert FeatureStore(tmp_path / "s").n_structures == 24


def _environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
