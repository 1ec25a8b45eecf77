"""Files that the package writes: refused before work is wasted, written beside their name, renamed at the end.

One way for all of them. A file that is there is replaced only where the package wrote a file of that kind itself;
structures are never replaced unasked, since nothing tells a user's own from the package's. What is being written has
a name of its own until it is whole, so that a kill, a full disk or an input that cannot be read costs nothing.
"""

from __future__ import annotations

import gzip
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, overload

from mekrr_scale.errors import ConfigError
from mekrr_scale.files import final_path, is_device, publish_text, split_frames, temporary_path

_HEAD = 65536
WRITER = "mekrr-scale"  # in figures
PAGE_MARK = '<meta name="generator" content="mekrr-scale">'  # in pages
LABELLED_BY = "mekrr-scale distill"  # in structures that it labels
COMPRESSIONS = (".gz", ".xz", ".bz2")


@dataclass(frozen=True)
class OutputKind:
    """A kind of file.

    Args:
        what: as messages call it.
        suffixes: of its names; empty: any but those of other kinds.
        ours: whether a file that is there is of this kind and written by the package.
        bare: whether a name without a suffix will do.
    """

    what: str
    suffixes: tuple[str, ...]
    ours: Callable[[Path], bool]
    bare: bool = True


def _no(path: Path) -> bool:
    return False


def _is_model(path: Path) -> bool:
    """The header of a safetensors file: its length, then JSON."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(min(length, 1 << 26))
    return "mekrr_scale" in json.loads(header)["__metadata__"]


def _is_backbone(path: Path) -> bool:
    """A zip of torch whose pickle, which is not run, begins with the package's format."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        return b"mekrr-scale " in archive.read(name)[:_HEAD]


def _is_exported(path: Path) -> bool:
    """A zip of TorchScript in which metatomic's metadata name this program."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/extra/model-metadata"))
        return WRITER.encode() in archive.read(name)


def _is_report(path: Path) -> bool:
    """By the keys that reports have had since 0.1.0."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if str(found.get("schema", "")).startswith("mekrr-scale "):
        return True
    return any(
        found.keys() >= keys
        for keys in (
            {"metrics", "rejected"}, {"chosen", "candidates", "plan"}, {"teacher", "student"},
            {"training_structures", "best_step", "history"},
        )
    )  # fmt: skip


def _is_figure(path: Path) -> bool:
    size = path.stat().st_size
    with gzip.open(path) if path.suffix.lower() == ".svgz" else path.open("rb") as stream:
        text = stream.read(_HEAD)
        if size > _HEAD:
            stream.seek(size - _HEAD)
            text += stream.read()
    return b"matplotlib" in text.lower() or WRITER.encode() in text


def _is_mliap(path: Path) -> bool:
    """A pickle, which is not read, that names the class."""
    return b"MliapModel" in path.read_bytes()[:_HEAD]


def _is_page(path: Path) -> bool:
    with path.open("rb") as stream:
        return PAGE_MARK.encode() in stream.read(_HEAD)


def _is_script(path: Path) -> bool:
    return path.read_bytes()[:_HEAD].startswith(b"#!/bin/bash\n#SBATCH --job-name=mekrr-")


def _is_labelled(path: Path) -> bool:
    with path.open("rb") as stream:
        return LABELLED_BY.encode() in stream.read(_HEAD)


FIGURE_FORMATS = ("png", "pdf", "svg", "svgz", "eps", "ps", "jpg", "jpeg", "tif", "tiff", "webp")
FRAME_SUFFIXES = (".xyz", ".extxyz", ".exyz")
MODEL = OutputKind("a model", (), _is_model)
BACKBONE = OutputKind("a backbone", (), _is_backbone)
EXPORTED = OutputKind("a model of metatomic", (".pt",), _is_exported, bare=False)
MLIAP = OutputKind("a model of ML-IAP", (".mliap",), _is_mliap, bare=False)
REPORT = OutputKind("a report", (".json",), _is_report)
FIGURE = OutputKind("a figure", tuple(f".{name}" for name in FIGURE_FORMATS), _is_figure)
LABELLED = OutputKind("structures that distill labelled", (".xyz",), _is_labelled)
PAGE = OutputKind("a page", (".html", ".htm"), _is_page, bare=False)
SCRIPT = OutputKind("a batch script", (), _is_script)
FRAMES = OutputKind(
    "structures",
    (*FRAME_SUFFIXES, *(f"{name}{packed}" for name in FRAME_SUFFIXES for packed in COMPRESSIONS), ".traj", ".db"),
    _no,
)
STREAM = OutputKind("a trajectory", FRAME_SUFFIXES, _no)
STRUCTURE = OutputKind("a structure", (), _no)  # of any format of ASE's, which is looked at where ASE is at hand

_OF_STORES = re.compile(r"manifest\.json|.*\.h5(\.json)?")
_OWNERS = {
    **dict.fromkeys((".mekrr", ".safetensors"), "a model"),
    **dict.fromkeys((".pt", ".pth", ".ckpt"), "a backbone"),
    **dict.fromkeys(FIGURE.suffixes, "a figure"),
    **dict.fromkeys((*FRAME_SUFFIXES, ".traj", ".db", ".cif", ".vasp", ".pdb", ".lmp"), "structures"),
    **dict.fromkeys((".gz", ".xz", ".bz2", ".zip", ".zst"), "compressed files"),
    ".json": "a report", ".toml": "a configuration", ".h5": "a store's shard", ".hdf5": "a store's shard",
    ".html": "a page", ".htm": "a page", ".csv": "a table",
    ".npz": "arrays", ".npy": "arrays", ".py": "a program", ".md": "text",
}  # fmt: skip


@dataclass(frozen=True)
class Output:
    """A file that a command or function is about to write."""

    path: Path
    kind: OutputKind
    option: str = ""  # that names it


Given: TypeAlias = tuple[Path | str | None, OutputKind, str]


def check_outputs(outputs: Iterable[Given], inputs: Iterable[Path | str | None] = (), overwrite: bool = False) -> None:
    """Refuse files that cannot or must not be written, before anything is read or computed.

    Args:
        outputs: path (None: not asked for), kind and option of each.
        inputs: files that are read, of all or some of their frames (``split_frames``); none may be written to, whatever
            its spelling or links.
        overwrite: a file that the package did not write may be replaced.

    Raises:
        ConfigError: says which file, why, and what to do.
    """
    known = [Output(Path(path), kind, option) for path, kind, option in outputs if path is not None]
    read = [split_frames(path)[0] for path in inputs if path is not None]
    for place, output in enumerate(known):
        _check_spelling(output)
        _check_name(output)
        for other in read:
            if _same(output.path, other):
                raise ConfigError(f"{_named(output)} is an input, too ({other}); write to another file")
        for before in known[:place]:
            if _same(output.path, before.path):
                raise ConfigError(
                    f"{_named(output)} is also where {before.kind.what} goes; give each a file of its own"
                )
        _check_place(output)
        _check_replaced(output, overwrite)


def check_output(path: Path | str, kind: OutputKind, overwrite: bool = False) -> Path:
    """The same for one file; returns its path.

    Raises:
        ConfigError: see ``check_outputs``.
    """
    check_outputs([(path, kind, "")], overwrite=overwrite)
    return Path(path)


def check_folder(path: Path | str | None, option: str = "") -> None:
    """Refuse a folder that cannot be made or written to; None is not asked for.

    Raises:
        ConfigError: says what is in the way.
    """
    if path is None:
        return
    path = Path(path)
    named = f"{option} {path}".strip()
    with _written(named, "choose a folder you may write to"):
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
        if not there.is_dir():
            raise ConfigError(f"{named}: {there} is a file, not a folder; name another")
        _try(there)


@contextmanager
def _written(named: str, advice: str) -> Iterator[None]:
    """What the system says against a path, as a ConfigError with advice."""
    try:
        yield
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"{named} cannot be written ({error}); {advice}") from error


def _try(folder: Path) -> None:
    """Make a file and remove it."""
    trial = temporary_path(folder, "")
    trial.touch()
    trial.unlink()


@overload
def figure_of(path: Path) -> Path: ...
@overload
def figure_of(path: None) -> None: ...
@overload
def figure_of(path: Path | None) -> Path | None: ...
def figure_of(path: Path | None) -> Path | None:
    """Where a figure goes, where it is asked for: without a suffix it is a PNG."""
    return path if path is None or path.suffix or not path.name else path.with_name(f"{path.name}.png")


def _named(output: Output) -> str:
    return f"{output.option} {output.path}".strip()


def _check_spelling(output: Output) -> None:
    """A name that the system takes at all: not too long, without odd characters."""
    with _written(_named(output), "choose another name"), suppress(FileNotFoundError, NotADirectoryError):
        output.path.stat()


def _check_name(output: Output) -> None:
    path, kind = output.path, output.kind
    name = path.name.lower()
    if not name:
        raise ConfigError(f"{_named(output)} is a folder; name a file")
    if is_device(path):
        return
    if kind.suffixes:
        fits = name.endswith(kind.suffixes) or (kind.bare and "." not in name.strip("."))
        if not fits and (kind is not REPORT or path.suffix.lower() in _OWNERS):
            raise ConfigError(
                f"{_named(output)}: {kind.what} cannot be written as {path.suffix or name!r}; end the name in "
                f"{_suffixes(kind)}"
            )
    elif kind is not STRUCTURE and _OWNERS.get(path.suffix.lower(), kind.what) != kind.what:
        owner = _OWNERS[path.suffix.lower()]
        raise ConfigError(f"{_named(output)}: {kind.what} under the name of {owner}; end the name in another suffix")


def _suffixes(kind: OutputKind) -> str:
    plain = [suffix for suffix in kind.suffixes if not suffix.endswith(COMPRESSIONS)]
    packed = f" (or packed: {', '.join(COMPRESSIONS)})" if len(plain) < len(kind.suffixes) else ""
    return f"{', '.join(plain)}{packed}"


def _check_place(output: Output) -> None:
    """The folder is there, and takes files of that name."""
    path = output.path
    with _written(_named(output), "choose a folder you may write to"):
        folder = final_path(path).parent
        if not folder.is_dir():
            raise ConfigError(f"{_named(output)}: the folder {folder} does not exist; create it first")
        if path.is_dir():
            raise ConfigError(f"{_named(output)} is a folder; name a file")
        if is_device(path):
            return
        if path.exists() and not path.stat().st_mode & 0o222:
            raise ConfigError(f"{_named(output)} is there and protected from writing; name another file")
        _try(folder)


def _check_replaced(output: Output, overwrite: bool) -> None:
    """A file that is there is the package's own of this kind, or empty; of a store it is never replaced."""
    path = output.path
    if not path.is_file() or is_device(path) or path.stat().st_size == 0:
        return
    if _OF_STORES.fullmatch(path.name) and (path.parent / "manifest.json").exists():
        raise ConfigError(f"{_named(output)} belongs to a store; name another file")
    if overwrite:
        return
    try:
        ours = output.kind.ours(path)
    except Exception:  # whatever a reader says of a file of another kind
        ours = False
    if not ours:
        wrote = "" if output.kind.ours is _no else f" and is no such file of mekrr-scale's ({output.kind.what})"
        raise ConfigError(f"{_named(output)} is there already{wrote}; name another file, or pass --overwrite")


def _same(a: Path, b: Path) -> bool:
    """Whether two paths are one file."""
    with suppress(OSError, ValueError):
        if a.exists() and b.exists():
            return a.samefile(b) and not is_device(a)
        return a.resolve() == b.resolve()
    return False


def write_report(path: Path | str | None, figures: object) -> None:
    """Figures as JSON, where they are asked for."""
    if path is not None:
        publish_text(Path(path), json.dumps(figures, indent=2))
