"""Kills at counted points of the program, over all commands that write.

Nothing half-written is taken for whole, nothing of others is lost, and the same command again ends as if nothing had
happened. A point is where files change below the working folder (a file opened for writing, synced, renamed, removed,
linked, cut, a folder made): between two of them a kill leaves the same files, but for the one that is being written,
which some of the kills tear. Each run is a fork of this process.
"""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ase.io
import numpy as np
from ase.build import bulk

from tests.campaign.ended import WHOLE, half, hashes
from tests.campaign.inputs import program_of, waited
from tests.campaign.place import copied, structures

SECONDS = 120
HOW = ("kill", "torn", "kill", "term", "torn", "interrupt", "kill", "twice")  # in turn
CODES = {"kill": {-9}, "torn": {-9}, "term": {75, -15}, "interrupt": {130}, "twice": {130}}
_EVENTS = {"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.symlink"}
_FOREIGN = (".", "new", "joined", "packed", "out", "kept", "m.mekrr.checkpoint", "out.pt.state", "out.pt.distilled")


@dataclass
class Points:
    """Counts the points of this process, and ends it at one."""

    folder: str
    last: int  # 0: never
    how: str
    seen: int = 0
    written: tuple[str, int] | None = None  # the file opened last, and its size then

    def watch(self) -> None:
        """From now on; there is no way back."""
        sync = os.fsync

        def synced(descriptor: int) -> None:
            self.point()
            sync(descriptor)

        os.fsync = synced  # type: ignore[assignment]
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else 0
        opened = bool(flags & (os.O_WRONLY | os.O_RDWR))
        if not (opened or event in _EVENTS) or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.path.abspath(os.fspath(arguments[0]))
        if path.startswith(self.folder):
            self.point()
            kept = os.path.getsize(path) if os.path.exists(path) and not flags & os.O_TRUNC else 0
            self.written = (path, kept) if opened else None

    def point(self) -> None:
        self.seen += 1
        if self.how == "twice" and self.last and self.seen == self.last + 1:
            os.kill(os.getpid(), signal.SIGINT)
        if self.seen != self.last:
            return
        if self.how == "torn":
            self._tear()
        names = {"term": signal.SIGTERM, "interrupt": signal.SIGINT, "twice": signal.SIGINT}
        os.kill(os.getpid(), names.get(self.how, signal.SIGKILL))

    def _tear(self) -> None:
        """Leave half of what was written to the file that was opened last."""
        path, before = self.written or ("", 0)
        written = os.path.getsize(path) - before if os.path.isfile(path) else 0
        if written > 0:
            os.truncate(path, before + written // 2)


@dataclass(frozen=True)
class Scenario:
    """Work that is killed.

    Args:
        phases: one after the other, each of one process or of several at once.
        ends: what is compared at the end, and looked at after every kill: a file or folder, and its kind.
        ready: commands that are run to their end before.
    """

    name: str
    phases: tuple[tuple[str, ...], ...]
    ends: tuple[tuple[str, str], ...]
    ready: tuple[str, ...] = ()


_EXTRACT = "extract data.xyz -o new --backbone schnet --checkpoint schnet.pt --derivatives 2 --shard-size 1K"
_PARTS = (f"{_EXTRACT} --part 1/2", f"{_EXTRACT} --part 2/2")
_FIT = "fit --store store -o m.mekrr --landmarks 8 --length-scale 2 --ridge 1e-6 --checkpoint-interval 0"
_TRAIN = "--steps 4 --state-interval 0 --batch 2 --validate-every 2 --json t.json"
_MD = "-o out.xyz --steps 6 --interval 1 --checkpoint 2"
_MODEL = ("m.mekrr", "model")
_TRAINED = (("out.pt", "backbone"), ("t.json", "report"))
SCENARIOS = (
    Scenario("extract", ((_EXTRACT,),), (("new", "store"),)),
    Scenario("extract, 2 writers", (_PARTS, ("store finalize new",)), (("new", "store"),)),
    Scenario("store finalize", (("store finalize new",),), (("new", "store"),), _PARTS),
    Scenario("store merge", (("store merge store new -o joined",),), (("joined", "store"),),
             (_EXTRACT.replace("data.xyz", "other.xyz"),)),
    Scenario("store repack", (("store repack store -o packed --shard-size 2K",),), (("packed", "store"),)),
    Scenario("fit, direct", ((f"{_FIT} --json m.json --plot m.png",),),
             (_MODEL, ("m.json", "report"), ("m.png", "figure")),
             (f"{_FIT} --json m.json --plot m.png --landmarks 6",)),
    Scenario("fit, falkon", ((f"{_FIT} --solver falkon --no-uncertainty",),), (_MODEL,)),
    Scenario("fit, kept sums", ((f"{_FIT} --validate 0 --no-uncertainty --sums kept",),), (_MODEL,)),
    Scenario("md", ((f"md model.mekrr start.xyz {_MD}",),), (("out.xyz", "stream"),)),
    Scenario("md, npt", ((f"md model.mekrr cell.xyz {_MD} --ensemble npt",),), (("out.xyz", "stream"),)),
    Scenario("relax", (("relax model.mekrr start.xyz -o out.xyz --trajectory steps.xyz --force 5 --overwrite",),),
             (("out.xyz", "structures"), ("steps.xyz", "stream")), ("predict model.mekrr start.xyz -o out.xyz",)),
    Scenario("predict", (("predict model.mekrr data.xyz -o out.xyz --overwrite",),), (("out.xyz", "structures"),),
             ("predict model.mekrr start.xyz -o out.xyz",)),
    Scenario("predict, packed", (("predict model.mekrr data.xyz -o out.xyz.gz --overwrite",),),
             (("out.xyz.gz", "structures"),)),
    Scenario("evaluate", (("evaluate model.mekrr data.xyz --json e.json --plot e.pdf --species-plot s.png",),),
             (("e.json", "report"), ("e.pdf", "figure"), ("s.png", "figure")),
             ("evaluate model.mekrr other.xyz --json e.json",)),
    Scenario("select", (("select model.mekrr data.xyz -o out.extxyz -n 3 --overwrite",),),
             (("out.extxyz", "structures"),)),
    Scenario("explain", (("explain model.mekrr data.xyz -o out.xyz --overwrite",),), (("out.xyz", "structures"),)),
    Scenario("pretrain", ((f"pretrain data.xyz -o out.pt {_TRAIN} --sizes hidden_channels=8,num_filters=8",),),
             _TRAINED),
    Scenario("finetune", ((f"finetune data.xyz -o out.pt --backbone schnet --checkpoint schnet.pt {_TRAIN}",),),
             _TRAINED),
    Scenario("distill", (("distill --teacher model.mekrr --unlabelled data.xyz --student schnet-tiny --steps 2 "
                          "--rattle 0.1 --landmarks 8 --json d.json -o out.pt",),),
             (("out.pt", "backbone"), ("d.json", "report"))),
    Scenario("curve", (("curve data.xyz --test data.xyz -o out --sizes 4,8 --repeats 1 --variants "
                        "scratch:schnet-tiny --steps 1 --lr 1e-3",),), (("out", "curve"),)),
    Scenario("tune", (("tune data.xyz -o out --backbone schnet --checkpoint schnet.pt --budget 3h --landmarks 8 "
                       "--validate 2 --derivatives 2",),),
             (("out/model.mekrr", "model"),)),
    Scenario("data_tools split", (("data_tools split data.xyz a.xyz b.xyz --fractions 0.7,0.3 --overwrite",),),
             (("a.xyz", "structures"), ("b.xyz", "structures"))),
    Scenario("data_tools convert", (("data_tools convert data.xyz other.xyz all.extxyz.xz --overwrite",),),
             (("all.extxyz.xz", "structures"),)),
)  # fmt: skip


@dataclass
class Found:
    """What came of a scenario."""

    points: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


@dataclass
class _Case:
    """A scenario in its folder, and what its end and its beginning are."""

    scenario: Scenario
    folder: Path
    expected: Mapping[str, object] = field(default_factory=dict)
    before: Mapping[str, object] = field(default_factory=dict)
    foreign: Mapping[str, str] = field(default_factory=dict)
    names: frozenset[str] = frozenset()

    def after_kill(self) -> Iterator[str]:
        """Files that a killed run should not have left so."""
        for name, kind in self.scenario.ends:
            yield from half(kind, self.folder / name, self.expected[name], self.before.get(name))
        now = hashes(self.folder)
        yield from (f"{name} is lost" for name, value in self.foreign.items() if now.get(name) != value)

    def at_end(self) -> Iterator[str]:
        """What is not as it is without kills."""
        yield from self.after_kill()
        for name, kind in self.scenario.ends:
            if _read(kind, self.folder / name) != self.expected[name]:
                yield f"{name} ends otherwise"
        yield from (f"{name} is left over" for name in _lasting(self.folder) - self.names)


def warm(base: Path) -> None:
    """Load once what each fork would load."""
    import matplotlib.pyplot  # noqa: F401

    import data_tools.__main__
    from mekrr_scale.backbones import load_backbone
    from mekrr_scale.cli.app import PLACES, command

    for name in (
        "pipeline",
        "simulation",
        "transfer",
        "report",
        "models",
        "backbones",
        "store",
        "structures",
        "tuning",
    ):
        face = importlib.import_module(f"mekrr_scale.{name}")
        for each in face.__all__:
            getattr(face, each)
    for name in PLACES:
        command(name)
    load_backbone("schnet", checkpoint=str(base / "schnet.pt"))
    assert data_tools.__main__.app


def killed(scenario: Scenario, base: Path, kills: int, seed: int = 0) -> Found:
    """Kill a scenario at points drawn without order; what was not as it should be."""
    ready = prepared(scenario, base)
    case = _Case(scenario, copied(ready, base.parent / "killed"))
    found = Found()
    found.points, codes = attempt(scenario, case.folder)
    if codes != {0}:
        found.faults.append(f"{scenario.name} does not end well if left alone ({codes}): {said(case.folder)}")
        return found
    case.expected = {name: _read(kind, case.folder / name) for name, kind in scenario.ends}
    case.before = {name: _read(kind, ready / name) for name, kind in scenario.ends if (ready / name).is_file()}
    case.foreign = {name: value for name, value in hashes(ready).items() if name not in case.before}
    case.names = _lasting(case.folder)
    generator = np.random.default_rng(seed)
    copied(ready, case.folder)
    for trial in range(5 * kills):
        if found.kills.total() == kills:
            break
        last, how = int(generator.integers(found.points)) + 1, HOW[trial % len(HOW)]
        where = f"{scenario.name}, {how} at {last} of {found.points}"
        _, codes = attempt(scenario, case.folder, last, how)
        if not codes <= {0} | CODES[how]:
            found.faults.append(f"{where}: ended with {codes}: {said(case.folder)}")
        found.faults += [f"{where}: {fault}" for fault in case.after_kill()]
        found.kills[how] += codes != {0}  # after a kill there are fewer points
        if codes != {0} and generator.random() < 0.4:  # the next one meets what this one left
            continue
        if (codes := attempt(scenario, case.folder)[1]) != {0}:
            found.faults.append(f"{where}: does not go on ({codes}): {said(case.folder)}")
        else:
            found.faults += [f"{where}, run again: {fault}" for fault in case.at_end()]
        copied(ready, case.folder)
    return found


def _read(kind: str, path: Path) -> object:
    return WHOLE[kind](path)


def _lasting(folder: Path) -> frozenset[str]:
    """Files but those that the next writer sweeps, and states that are kept in reserve."""
    names = (Path(name) for name in hashes(folder))
    return frozenset(str(path) for path in names if not path.name.startswith(".tmp-") and ".previous." not in path.name)


def prepared(scenario: Scenario, base: Path) -> Path:
    """The folder before the first kill, with files of others wherever a command writes."""
    folder = copied(base, base.parent / "ready")
    ase.io.write(folder / "other.xyz", structures(28)[20:], format="extxyz")
    ase.io.write(folder / "cell.xyz", bulk("C", "diamond", 3.6), format="extxyz")
    for line in scenario.ready:
        _, (code,) = _run([line], folder, 0, "kill")
        assert code == 0, (line, said(folder))
    for place in _FOREIGN:
        (folder / place).mkdir(exist_ok=True)
        (folder / place / "notes.txt").write_text(f"of the user's, in {place}\n", encoding="utf-8")
        (folder / place / ".tmp-mine").write_bytes(b"no name that the package gives")
    return folder


def attempt(scenario: Scenario, folder: Path, last: int = 0, how: str = "kill") -> tuple[int, set[int]]:
    """Run all phases, or up to a point; points that were met, and exit codes."""
    points, codes = 0, {0}
    for lines in scenario.phases:
        if last and last <= points:
            break
        seen, ended = _run(lines, folder, max(last - points, 0), how)
        points += max(seen)
        codes |= set(ended)
        if set(ended) != {0}:
            break
    return points, codes if codes == {0} else codes - {0}


def said(folder: Path) -> str:
    """What the last processes said."""
    logs = sorted(folder.parent.glob("said-*.txt"))
    return " / ".join(path.read_text(encoding="utf-8", errors="replace").strip()[-300:] for path in logs)


def _run(lines: Sequence[str], folder: Path, last: int, how: str) -> tuple[list[int], list[int]]:
    """Processes at once; the points that each has met (0: it was killed), and their exit codes.

    The first dies at the point, the others somewhere else.
    """
    children = []
    for number, line in enumerate(lines):
        log = folder.parent / f"said-{number}.txt"
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            at = last if not number else last and last // (number + 1) + 1
            _child(line.split(), folder, log, Points(str(folder), at, how), writing)
        os.close(writing)
        children.append((child, reading))
    ends = time.monotonic() + SECONDS
    codes = [waited(child, ends) for child, _ in children]
    return [_count(reading) for _, reading in children], codes


def _count(reading: int) -> int:
    with os.fdopen(reading) as stream:
        return int(stream.read() or 0)


def _child(words: Sequence[str], folder: Path, log: Path, points: Points, writing: int) -> None:
    """Never comes back."""
    code = 99
    try:
        os.chdir(folder)
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(stream, number)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        program = program_of(words)
        points.watch()
        program()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os.write(writing, str(points.seen).encode())
        for stream_ in (sys.stdout, sys.stderr):
            stream_.flush()
        os._exit(code)
