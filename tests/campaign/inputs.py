"""Bad inputs and combinations of options, over all commands: one line and an exit code, nothing lost, no hang.

Each call runs in a fork of this process (loading torch anew would take seconds), in a copy of a small folder.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer

SECONDS = 60
_WORKED = re.compile(r'"stage": "(?!look at labels)[^"]*", "done": [1-9]')  # lines of progress
CODES = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 75}
GIGABYTES = 8

H2O = (
    "3\nLattice=\"8 0 0 0 8 0 0 0 8\" Properties=species:S:1:pos:R:3:forces:R:3 energy=-3.5 pbc=\"T T T\"\n"
    "O 0 0 0.12 0 0 0.1\nH 0 0.76 -0.47 0 0 -0.1\nH 0 -0.76 -0.47 0 0 0\n"
)  # fmt: skip


def texts() -> dict[str, bytes]:
    """Files of structures that no one should have written."""
    good = H2O.encode()
    many = good * 40
    packed = {"xz": lzma.compress(many), "gz": gzip.compress(many), "bz2": bz2.compress(many)}
    noise = np.random.default_rng(0).bytes(3000)
    found = {f"noise.{suffix}": noise for suffix in ("xyz", "xyz.xz", "xyz.gz", "xyz.bz2", "db", "traj", "cif", "vasp")}
    found |= {f"cut.xyz.{suffix}": data[: len(data) // 2] for suffix, data in packed.items()}
    found |= {f"text.xyz.{suffix}": good for suffix in packed}
    found |= {
        "empty.xyz": b"", "blank.xyz": b"\n\n \n", "negative.xyz": good.replace(b"3\n", b"-3\n", 1),
        "huge-count.xyz": good.replace(b"3\n", b"999999999999\n", 1), "word.xyz": b"three" + good,
        "zero.xyz": b"0\n\n", "cut.xyz": good[:-20], "columns.xyz": good.replace(b"forces:R:3", b"forces:R:99999999"),
        "negative-columns.xyz": good.replace(b"forces:R:3", b"forces:R:-3"),
        "odd-properties.xyz": good.replace(b"species:S:1:", b":::"),
        "latin1.xyz": good.replace(b"energy", b"\xc5=1 energy"), "utf16.xyz": H2O.encode("utf-16"),
        "zeros.xyz": bytes(500), "zeros-inside.xyz": good[:60] + bytes(20) + good[60:],
        "nan.xyz": good.replace(b"0.76", b"nan", 1), "inf.xyz": good.replace(b"0.76", b"inf", 1),
        "inf-cell.xyz": good.replace(b"8 0 0 0 8", b"inf 0 0 0 8"), "tiny-cell.xyz": good.replace(b"8", b"1e-3"),
        "flat-cell.xyz": good.replace(b"8 0 0 0 8 0 0 0 8", b"8 0 0 8 0 0 8 0 0"),
        "short-cell.xyz": good.replace(b"8 0 0 0 8 0 0 0 8", b"8 0 0 0 8"),
        "element.xyz": good.replace(b"O 0", b"Qq 0"),
        "no-element.xyz": good.replace(b"O 0 ", b"0 "), "words.xyz": good.replace(b"0.76", b"zero", 1),
        "quotes.xyz": good.replace(b'"T T T"', b'"T T T'), "pbc.xyz": good.replace(b'"T T T"', b'"T T"'),
        "energy.xyz": good.replace(b"-3.5", b"much"), "energy-nan.xyz": good.replace(b"-3.5", b"nan"),
        "no-energy.xyz": good.replace(b"energy=-3.5", b""), "overlap.xyz": good.replace(b"0.76", b"0.0"),
        "iron.xyz": good.replace(b"O 0", b"Fe 0"),
        "long-line.xyz": good.replace(b"energy", b"x" * 300_000 + b"=1 energy"),
        "many-infos.xyz": good.replace(b"energy", b" ".join(b"k%d=1" % i for i in range(3000)) + b" energy"),
        "two-headers.xyz": b"3\n" + good, "directory.xyz/": b"", "pipe.xyz|": b"", "[red]name[/red].xyz": noise,
        "bomb.xyz.xz": lzma.compress(bytes(70_000_000)), "bomb.cif.gz": gzip.compress(bytes(70_000_000)),
        "half.db": b"SQLite format 3\0" + noise, "half.traj": b"- of Ulm" + noise, "json.json": b'{"a": [1,',
        "deep.json": b"[" * 100_000, "OUTCAR": b"vasp.6\n" + noise, "vasprun.xml": b"<modeling><" + noise,
        "bom.xyz": b"\xef\xbb\xbf" + good, "crlf.xyz": good.replace(b"\n", b"\r\n"),  # these two are fine
    }  # fmt: skip
    return found


WITH_STRUCTURES = (
    "extract {x} -o new --backbone schnet --checkpoint schnet.pt",
    "evaluate model.mekrr {x}",
    "predict model.mekrr {x} -o out.xyz",
    "md model.mekrr {x} -o out.xyz --steps 1",
    "relax model.mekrr {x} -o out.xyz --steps 1",
    "select model.mekrr {x} -o out.xyz -n 1",
    "explain model.mekrr {x} -o out.xyz",
    "pretrain {x} -o out.pt --steps 1",
    "finetune {x} -o out.pt --backbone schnet --checkpoint schnet.pt --steps 1",
    "distill --teacher model.mekrr --unlabelled {x} --student schnet-tiny --steps 1 -o out.pt",
    "curve {x} --test data.xyz -o out --sizes 2 --repeats 1 --variants scratch:schnet-tiny --steps 1 --lr 1e-3",
    "tune {x} -o tuned --backbone schnet --checkpoint schnet.pt --budget 1h --landmarks 8 --validate 2",
    "data_tools convert {x} out.xyz",
    "data_tools split {x} out.xyz other.xyz --fractions 0.5,0.5",
    "data_tools inspect {x}",
)
# written by the package, and given as what they are not; the first are structures after all
WRITTEN = (
    "predicted.extxyz",
    "run.xyz",
    "report.json",
    "figure.png",
    "run.restart.json",
    "store/manifest.json",
    "store/energy.json",
    "curve/plan.json",
    "curve/curve.csv",
    "states/cg.safetensors",
    "sums/sums.safetensors",
    "sums/frame.mekrr",
    "model.mekrr",
    "schnet.pt",
    "fit.toml",
    "store",
    "curve",
    "states",
)
WITH_MODEL = (
    "evaluate {x} data.xyz", "evaluate {x} store", "predict {x} data.xyz -o out.xyz",
    "md {x} start.xyz -o out.xyz --steps 1", "relax {x} start.xyz -o out.xyz", "select {x} data.xyz -o out.xyz -n 1",
    "explain {x} data.xyz -o out.xyz", "extract data.xyz -o new --prior {x} --backbone schnet --checkpoint schnet.pt",
    "distill --teacher {x} --unlabelled data.xyz --student schnet-tiny --steps 1 -o out.pt",
    "fit --store store -o m.mekrr --landmarks-from {x}", "evaluate model.mekrr data.xyz --transfer {x}:data.xyz",
)  # fmt: skip
WITH_CHECKPOINT = tuple(
    f"{command} --backbone {name} --checkpoint {{x}}"
    for name in ("schnet", "dimenet++", "chgnet", "sevennet")
    for command in ("extract data.xyz -o new", "finetune data.xyz -o out.pt --steps 1")
) + ("backbones --blocks schnet --checkpoint {x}", "extract data.xyz -o new --prior {x}")
WITH_STORE = (
    "fit --store {x} -o m.mekrr --landmarks 8", "evaluate model.mekrr {x}", "store info {x}", "store verify {x}",
    "store merge store {x} -o joined", "store repack {x} -o packed", "store finalize {x}",
    "extract data.xyz -o {x} --backbone schnet --checkpoint schnet.pt",
)  # fmt: skip
TOML = (
    "store = 5", "store = []", "store = [[]]", 'store = ""', "store = 'store'\noutput = 5",
    "store = 'store'\nseed = -1",
    "store = 'store'\n[kernel]\nlength_scales = nan", "store = 'store'\nsolver = 5",
    "store = 'store'\nsolver.name = []",
    "store = 'store'\n[rows.weights]\nforce = nan", "store = 'store'\n[landmarks]\ncount = -1", "= 5", "store = 'store",
    "store = 'store'\n[execution]\ndevice = 'meta'", "store = 'store'\n[execution]\nmemory = 'inf'",
    "store = 'store'\n[validation]\nfolds = 100000", "store = 'store'\nkernel = 'x'", "\ufeffstore = 5",
)  # fmt: skip
ENVIRONMENTS = (
    {"RANK": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
    {"RANK": "0", "WORLD_SIZE": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
    {"RANK": "3", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
    {"RANK": "-1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
    {"RANK": "0", "WORLD_SIZE": "2"},
    {"SLURM_STEP_NUM_TASKS": "x", "SLURM_PROCID": "0"},
    {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "x", "SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "n1"},
    {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_ID": "?", "SLURM_STEP_NODELIST": "["},
    {"SLURM_TMPDIR": "/no/such/folder"},
    {"TMPDIR": "/no/such/folder"},
)
ANY_RANKED = ("extract data.xyz -o new --backbone schnet --checkpoint schnet.pt", "evaluate model.mekrr data.xyz",
              "fit --store store -o m.mekrr --landmarks 8")  # fmt: skip
ODD = (
    "env", "env nothing", "env --no-load --json x", "backbones --blocks nothing", "backbones x", "nothing", "store",
    "store nothing", "slurm nothing", "data_tools nothing", "data_tools download", "data_tools download no-address",
    "data_tools download http://127.0.0.1:9/x --sums data.xyz", "data_tools download file:///etc/hosts --sums data.xyz",
)  # fmt: skip
VALUES = ("-1", "nan", "x", "", "-inf", "1e400", "0", "🙂", "1,,2", "[]")
BASES = {
    "extract": ANY_RANKED[0], "fit": ANY_RANKED[2], "evaluate": ANY_RANKED[1],
    "predict": "predict model.mekrr data.xyz -o out.xyz", "md": "md model.mekrr start.xyz -o out.xyz --steps 1",
    "relax": "relax model.mekrr start.xyz -o out.xyz --steps 1",
    "select": "select model.mekrr data.xyz -o out.xyz -n 1", "explain": "explain model.mekrr data.xyz -o out.xyz",
    "pretrain": "pretrain data.xyz -o out.pt --steps 1",
    "finetune": "finetune data.xyz -o out.pt --backbone schnet --checkpoint schnet.pt --steps 1",
    "distill": "distill --teacher model.mekrr --unlabelled data.xyz --student schnet-tiny --steps 1 -o out.pt",
    "curve": next(each for each in WITH_STRUCTURES if each.startswith("curve")).format(x="data.xyz"),
    "backbones": "backbones", "env": "env --no-load",
    "tune": "tune data.xyz -o tuned --backbone schnet --checkpoint schnet.pt --budget 1h --landmarks 8 --validate 2",
    "store info": "store info store", "store verify": "store verify store",
    "store repack": "store repack store -o packed", "store merge": "store merge store -o joined",
    "store finalize": "store finalize parts",
    "slurm extract": "slurm extract data.xyz -o new", "slurm fit": "slurm fit fit.toml",
    "slurm evaluate": "slurm evaluate model.mekrr data.xyz", "slurm md": "slurm md model.mekrr start.xyz",
    "slurm finetune": "slurm finetune data.xyz", "slurm tune": "slurm tune data.xyz -o tuned",
    "slurm curve": "slurm curve data.xyz",
    "data_tools convert": "data_tools convert data.xyz out.xyz",
    "data_tools split": "data_tools split data.xyz out.xyz other.xyz --fractions 0.5,0.5",
    "data_tools inspect": "data_tools inspect data.xyz",
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A command line that should not work, or should not do harm."""

    words: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, template: str, x: str = "") -> Call:
        return cls(tuple(word.replace("{x}", x) for word in template.split()))

    @property
    def name(self) -> str:
        """Of the command, as tables list it."""
        return " ".join(self.words[: 2 if self.words[0] in ("data_tools", "store", "slurm") else 1])

    def __str__(self) -> str:
        return " ".join([*(f"{key}={value}" for key, value in self.environment), *map(repr, self.words)])


def bad_files(folder: Path) -> None:
    """Put them beside the good ones."""
    bad = folder / "bad"
    bad.mkdir(exist_ok=True)
    for name, data in texts().items():
        path = bad / name.rstrip("/|")
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        elif name.endswith("|"):
            path.unlink(missing_ok=True)
            os.mkfifo(path)
        else:
            path.write_bytes(data)
    for source in ("model.mekrr", "schnet.pt"):
        data = (folder / source).read_bytes()
        (bad / f"cut-{source}").write_bytes(data[: len(data) // 2])
        (bad / f"flipped-{source}").write_bytes(data[:300] + bytes([data[300] ^ 4]) + data[301:])
    (bad / "nowhere").mkdir(exist_ok=True)
    for number, text in enumerate(TOML):
        (bad / f"{number}.toml").write_text(text, encoding="utf-8")
    (bad / "utf16.toml").write_bytes("store = 'store'".encode("utf-16"))
    (bad / "noise.toml").write_bytes(np.random.default_rng(0).bytes(400))


def calls(seed: int = 0, options: int = 260) -> list[Call]:
    """All of them; of options and values so many are drawn, and half as many pairs of options."""
    names = [name.rstrip("/|") for name in texts()]
    found = [Call.of(template, f"bad/{name}") for template in WITH_STRUCTURES for name in names]
    found += [Call.of(template, "missing.xyz") for template in WITH_STRUCTURES]
    files = ("cut-model.mekrr", "flipped-model.mekrr", "noise.xyz", "empty.xyz", "directory.xyz", "pipe.xyz", "gone")
    found += [Call.of(template, f"bad/{name}") for template in WITH_MODEL for name in (*files, "../schnet.pt")]
    files = ("cut-schnet.pt", "flipped-schnet.pt", "noise.xyz", "empty.xyz", "directory.xyz", "pipe.xyz", "gone")
    found += [Call.of(template, f"bad/{name}") for template in WITH_CHECKPOINT for name in (*files, "../model.mekrr")]
    files = ("noise.xyz", "nowhere", "gone", "pipe.xyz", "[red]name[/red].xyz")
    found += [Call.of(template, f"bad/{name}") for template in WITH_STORE for name in files]
    found += [Call.of("fit {x}", f"bad/{n}.toml") for n in (*range(len(TOML)), "utf16", "noise", "gone")]
    for template in (*WITH_STRUCTURES, *WITH_MODEL, *WITH_CHECKPOINT, *WITH_STORE, "fit {x}"):
        generator = np.random.default_rng([seed, len(template)])
        found += [Call.of(template, WRITTEN[i]) for i in generator.permutation(len(WRITTEN))[:6]]
    found += [Call.of(template) for template in ODD]
    for template in ANY_RANKED:
        found += [Call(Call.of(template).words, tuple(extra.items())) for extra in ENVIRONMENTS]
    drawn = list(_options())
    generator = np.random.default_rng(seed)
    found += [drawn[i] for i in generator.permutation(len(drawn))[:options]]
    for i in generator.permutation(len(drawn))[: options // 2]:
        others = [each for each in drawn if each.words[:-2] == drawn[i].words[:-2]]
        found.append(Call((*drawn[i].words, *others[generator.integers(len(others))].words[-2:])))
    return found


def _options() -> Iterator[Call]:
    """Every option with a value, with each that it cannot have."""
    from data_tools.__main__ import app
    from mekrr_scale.cli.app import PLACES, command

    every = {**{name: command(name) for name in PLACES}, "data_tools": typer.main.get_command(app)}
    for name, made in every.items():
        inner = getattr(made, "commands", None)
        for words, each in [(f"{name} {sub}", c) for sub, c in inner.items()] if inner else [(name, made)]:
            if words not in BASES:
                continue
            for parameter in each.params:
                if parameter.param_type_name != "option" or parameter.is_flag or "--output" in parameter.opts:
                    continue
                long = next((text for text in parameter.opts if text.startswith("--")), parameter.opts[0])
                for value in (*VALUES, *(("meta", "mps", "nope") if long == "--device" else ())):
                    yield Call((*BASES[words].split(), long, value))


@dataclass(frozen=True)
class Ending:
    """How a call ended."""

    code: int
    output: str
    seconds: float
    destroyed: tuple[str, ...]

    def faults(self) -> Iterator[str]:
        """What should not be."""
        if self.code not in CODES:
            yield f"code {self.code}"
        if "Traceback (most" in self.output or "unexpected happened" in self.output:
            yield "traceback"
        if self.code and not self.output.strip():
            yield "no word"
        if self.code == 2 and _WORKED.search(self.output):
            yield "refused after the work"
        if self.destroyed:
            yield f"destroyed {self.destroyed}"


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def program_of(words: Sequence[str]) -> Callable[[], None]:
    """The program that a command line begins with, which finds the line where it looks for it."""
    if words[0] == "data_tools":
        from data_tools.__main__ import main as tools

        sys.argv = list(words)
        return tools
    from mekrr_scale.cli import main

    sys.argv = ["mekrr-scale", *words]
    return main


def ended(call: Call, folder: Path, main: Callable[[], None] | None = None) -> Ending:
    """Run a call in a fork, in the folder; files that were there have to be there afterwards.

    Args:
        main: what is run instead of the program.
    """
    before = hashes(folder)
    log = folder.parent / "output.txt"
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        _run(call, folder, log, main)
    code = waited(child, begin + SECONDS)
    after = hashes(folder)
    lost = tuple(name for name in before if after.get(name) != before[name])
    for name in set(after) - set(before):
        (folder / name).unlink(missing_ok=True)
    for path in ("new", "out", "joined", "tuned", "packed", "out.pt.distilled", "out.pt.state", "m.mekrr.checkpoint"):
        shutil.rmtree(folder / path, ignore_errors=True)
    return Ending(code, log.read_text(encoding="utf-8", errors="replace"), time.monotonic() - begin, lost)


def waited(child: int, ends: float) -> int:
    """The exit code; minus the signal's number where one ended it; -100 after the time limit."""
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -100


def _run(call: Call, folder: Path, log: Path, main: Callable[[], None] | None) -> None:
    """In the child; never comes back."""
    code = 99
    try:
        os.chdir(folder)
        os.environ.update(call.environment)
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(stream, number)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
        limit = GIGABYTES * 1024**3
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        program = main or program_of(call.words)
        program()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream_ in (sys.stdout, sys.stderr):
            stream_.flush()
        os._exit(code)
