"""Bits flipped, ends cut off, blocks moved, in every kind of file that the package writes.

What comes of it has to be an error, a word, or the very same content: nothing else is read in silence.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule

from mekrr_scale.backbones import load_backbone, unscaled
from mekrr_scale.distributed import Checkpoint
from mekrr_scale.errors import MekrrError
from mekrr_scale.models import Model
from mekrr_scale.simulation.restarts import RestartFile
from mekrr_scale.store import FeatureStore, energy_definition, finalize
from mekrr_scale.transfer import curves
from tests.campaign.place import IDENTITY

SECONDS = 20


def content(value: object) -> object:
    """What can be compared: arrays by their bytes."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: content(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): content(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [content(item) for item in value]
    return repr(value)


def backbone(folder: Path) -> object:
    found = load_backbone("schnet", checkpoint=str(folder / "schnet.pt"))
    return [found.identity(), unscaled(found)[1], found.config()]


def state(folder: Path) -> object:
    found = Checkpoint(folder / "states", IDENTITY).load_own("cg")
    return None if found is None else [dict(found.tensors), found.values]


def sums(folder: Path) -> object:
    from safetensors import safe_open

    with safe_open(folder.parent / "whole" / "sums" / "sums.safetensors", "pt") as archive:
        identity = archive.metadata()["identity"]
    import json

    found = Checkpoint(folder / "sums", json.loads(identity)).load_own("sums")
    return None if found is None else [dict(found.tensors), found.values]


def simulation(folder: Path) -> object:
    """What a run would go on from: the file, and the frames."""
    atoms: Atoms = molecule("H2O")
    whole = folder.parent / "whole" / "run.restart.json"
    import json

    restart = RestartFile(folder / "run.xyz", json.loads(whole.read_text(encoding="utf-8"))["plan"])
    found = restart.read(atoms)
    if found is None:
        return None
    generator = np.random.default_rng(0)
    restart.restore(found, atoms, generator)
    told = {key: value for key, value in found.items() if key != "seal"}
    return [told, atoms.positions, atoms.get_momenta(), (folder / "run.xyz").read_bytes()]


def store(folder: Path) -> object:
    found = FeatureStore(folder / "store")
    return [found.id, found.header, [content(batch) for batch in found]]


def parts(folder: Path) -> object:
    """A damaged one is of a part that is not done."""
    return finalize(folder / "parts").id


def energy(folder: Path) -> object:
    return energy_definition(folder / "store")


def curve(folder: Path) -> object:
    paths = sorted((folder / "curve").glob("*-n4-r0.json"))
    return [curves.finished(path, ("scratch:schnet-tiny", 4, 0)) for path in paths]


def claim(folder: Path) -> object:
    found = curves.read_document(folder / "curve" / "plan.json")
    if found is None:
        raise MekrrError("damaged")
    return found


@dataclass(frozen=True)
class Kind:
    """A kind of file: where it lies, and what is made of it."""

    name: str
    files: str  # pattern in the folder
    read: Callable[[Path], object]


KINDS = (
    Kind("model", "model.mekrr", lambda folder: Model.load(folder / "model.mekrr")),
    Kind("backbone", "schnet.pt", backbone),
    Kind("state of a fit or training", "states/cg.safetensors", state),
    Kind("kept sums", "sums/sums.safetensors", sums),
    Kind("kept sums, their model", "sums/frame.mekrr", lambda folder: Model.load(folder / "sums" / "frame.mekrr")),
    Kind("restart file", "run.restart.json", simulation),
    Kind("frames of a simulation", "run.xyz", simulation),
    Kind("store, shards", "store/*.h5", store),
    Kind("store, sidecars", "store/*.h5.json", store),
    Kind("store, manifest", "store/manifest.json", store),
    Kind("store, which energy", "store/energy.json", energy),
    Kind("store, parts", "parts/*.part", parts),
    Kind("learning curve, runs", "curve/*-n4-r0.json", curve),
    Kind("learning curve, plan", "curve/plan.json", claim),
)


def damaged(data: bytes, generator: np.random.Generator) -> bytes:
    """The bytes with one thing wrong."""
    way = generator.random()
    place = int(generator.integers(len(data)))
    changed = bytearray(data)
    if way < 0.7:
        if generator.random() < 0.5:  # headers are small beside arrays
            place = min(place, int(generator.integers(min(len(data), 4096))))
        changed[place] ^= 1 << int(generator.integers(8))
        return bytes(changed)
    if way < 0.85:
        return data[:place]
    if way < 0.9:
        changed[place : place + 16] = bytes(len(changed[place : place + 16]))
        return bytes(changed)
    other = int(generator.integers(len(data)))
    if way < 0.95:
        block = changed[other : other + 64]
        changed[place : place + len(block)] = block
        return bytes(changed)
    return data + generator.bytes(1 + place % 64)


class _Hanging(BaseException):
    pass


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """An end to what hangs."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Hanging

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class _Words(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


def outcome(kind: Kind, folder: Path, expected: object) -> str:
    """What came of reading."""
    from mekrr_scale.files import warn_unsealed

    warn_unsealed.cache_clear()
    words = _Words()
    logger = logging.getLogger("mekrr_scale")
    logger.addHandler(words)
    try:
        with limited(SECONDS):
            found = content(kind.read(folder))
    except MekrrError:
        return "error"
    except _Hanging:
        return "HANG"
    except Exception as error:
        return f"TRACEBACK {type(error).__name__}: {error}"
    finally:
        logger.removeHandler(words)
    if words.count:
        return "told"
    return "same" if found == expected else "SILENT"


def campaign(whole: Path, cases: int, seed: int = 0) -> tuple[dict[str, Counter[str]], list[str]]:
    """Damage every kind of file so many times; counts of what came of it, and what should not have.

    Args:
        whole: a folder named ``whole`` as ``place.made`` fills it.
    """
    import shutil

    from tests.campaign.place import copied

    generator = np.random.default_rng(seed)
    found: dict[str, Counter[str]] = {}
    bad: list[str] = []
    work = copied(whole, whole.parent / "work")
    for kind in KINDS:
        counts = found.setdefault(kind.name, Counter())
        files = sorted(whole.glob(kind.files))
        expected = content(kind.read(work))
        for case in range(cases):
            source = files[case % len(files)]
            target = work / source.relative_to(whole)
            target.write_bytes(changed := damaged(source.read_bytes(), generator))
            result = outcome(kind, work, expected)
            if changed == source.read_bytes():
                result = "same"
            counts[result.split()[0]] += 1
            if result.split()[0].isupper():
                bad.append(f"{kind.name} {source.name} case {case}: {result}")
            shutil.copy(source, target)
            if kind.read is simulation:  # which cuts frames that come again
                shutil.copy(whole / "run.xyz", work / "run.xyz")
    return found, bad
