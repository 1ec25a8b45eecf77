"""What commands leave: read as the package reads it, compared with what an undisturbed run leaves."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from mekrr_scale.backbones import load_backbone, unscaled
from mekrr_scale.errors import StoreError
from mekrr_scale.models import Model
from mekrr_scale.store import FeatureStore, verify
from tests.campaign.damage import content

Reader: TypeAlias = Callable[[Path], object]
TIMES = {"seconds", "speed", "microseconds_per_atom", "time", "rates", "seal"}  # of which a seal is over the others


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """Of all files in a folder."""
    return {
        str(path.relative_to(folder)): digest(path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def timeless(value: object) -> object:
    """Without what a clock says."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if not any(t in str(key) for t in TIMES)}
    return [timeless(item) for item in value] if isinstance(value, list | tuple) else value


def report(path: Path) -> object:
    return timeless(json.loads(path.read_text(encoding="utf-8")))


def structures(path: Path) -> object:
    data = path.read_bytes()
    return digest(gzip.decompress(data) if path.suffix == ".gz" else data)


def figure(path: Path) -> object:
    data = path.read_bytes()
    if path.suffix == ".png":
        from matplotlib.image import imread

        return imread(io.BytesIO(data)).shape
    return data[:5] == b"%PDF-" and data.rstrip().endswith(b"%%EOF")


def backbone(path: Path) -> object:
    found = load_backbone("schnet", checkpoint=str(path))
    return content([found.identity(), unscaled(found)[1]])


def model(path: Path) -> object:
    return timeless(content(Model.load(path)))


def store(path: Path) -> object:
    """A finished store, every shard of which is whole."""
    found = FeatureStore(path)
    assert verify(path).ok, "verify finds damage"
    return [found.id, content(found.header), [content(batch) for batch in found], bool(found.incomplete)]


def curve(path: Path) -> object:
    runs = {each.name: report(each) for each in _runs(path)}
    table = (path / "curve.csv").read_text(encoding="utf-8").splitlines()
    return [runs, [line.split(",")[:4] for line in table]]


def _runs(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.json")) if not path.name.startswith(".")]


WHOLE: Mapping[str, Reader] = {
    "model": model, "report": report, "structures": structures, "figure": figure, "backbone": backbone,
    "store": store, "curve": curve, "stream": Path.read_bytes,
}  # fmt: skip


def half(kind: str, path: Path, expected: object, before: object) -> Iterator[str]:
    """What is wrong with what a killed run has left: it is not there, or as before, or whole."""
    if not path.exists():
        return
    if kind == "stream":
        assert isinstance(expected, bytes)
        if not expected.startswith(path.read_bytes()) and path.read_bytes() != before:
            yield f"{path.name} is no beginning of what comes"
        return
    if path.is_dir():
        yield from (_half_store if kind == "store" else _half_curve)(path, expected)
        return
    try:
        found = WHOLE[kind](path)
    except Exception as error:
        yield f"{path.name} is half-written: {error!r}"
        return
    if found not in (expected, before):
        yield f"{path.name} is neither what was nor what comes"


def _half_store(path: Path, expected: object) -> Iterator[str]:
    """Shards that are told of are whole; what a reader takes for a store is all of it, or says that it is not."""
    try:
        found = WHOLE["store"](path)
    except StoreError:
        return
    assert isinstance(found, list)
    if found != expected and not found[-1]:
        yield f"{path.name} is taken for a whole store"


def _half_curve(path: Path, expected: object) -> Iterator[str]:
    assert isinstance(expected, list)
    for each in _runs(path):
        try:
            if report(each) != expected[0][each.name]:
                yield f"{each.name} is another"
        except (ValueError, KeyError) as error:
            yield f"{each.name}: {error!r}"
