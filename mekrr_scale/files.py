"""Files: written beside their name and renamed, locks, hashes, sizes as people write them, room for scratch."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import tempfile
import time
import tomllib
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import xxhash

from mekrr_scale.errors import ConfigError, MekrrError, StructureError, unexpected

if TYPE_CHECKING:
    JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None
else:
    JSON = object  # what checks at run time see of it: they do not follow a type that holds itself
Document: TypeAlias = Mapping[str, JSON]
HashName = Literal["sha256", "xxh3_128"]  # of models and downloads; of the store's shards
TEMPORARY = ".tmp-"  # how names of files begin that are not published yet
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_TEMPORARY_NAME = re.compile(re.escape(TEMPORARY) + r"([0-9a-f]{8})-(\d+)-[0-9a-f]{32}")
_OLD_NAME = re.compile(r"\..+\.(mekrr|pt|restart\.json)\.[0-9a-f]{32}")  # 0.1.0's models, backbones, restart files
_DEAD_SECONDS = 600.0  # a file of a dead process is left alone for so long, one of an unknown process for a day
_UNKNOWN_SECONDS = 24 * 3600.0
_SEAL = "seal"
_PIECE = 8 * 1024 * 1024
_FRAMES = re.compile(r"-?\d+|(-?\d+)?:(-?\d+)?(:(-?\d+)?)?", re.ASCII)
_UNITS = {"": 1, "B": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def path_of(given: object, expected: str, error: type[MekrrError], *parts: str) -> Path:
    """A path of what a caller gave; what is none is told in words.

    Args:
        expected: what it should be, for the message.
        parts: of other objects that may have been meant.
    """
    if isinstance(given, str | os.PathLike):
        return Path(given)
    raise error(unexpected(given, expected, *parts))


def split_frames(path: Path | str) -> tuple[Path, int | slice | None]:
    """A file, and the frames that its name chooses as ASE has it: ``a.xyz@12``, ``a.xyz@-1``, ``a.xyz@::10``.

    None: all of them. What is there under the whole name is that file, and nothing is chosen.

    >>> split_frames("no/such.xyz@::10")
    (PosixPath('no/such.xyz'), slice(None, None, 10))

    Raises:
        StructureError: a step of zero.
    """
    path = Path(path)
    name, _, words = path.name.rpartition("@")
    if not name or not _FRAMES.fullmatch(words) or os.path.exists(path):
        return path, None
    if ":" not in words:
        return path.with_name(name), int(words)
    chosen = slice(*(int(word) if word else None for word in words.split(":")))
    if chosen.step == 0:
        raise StructureError(f"{path}: a step of zero; write {name}@::10 for every tenth frame")
    return path.with_name(name), chosen


def told_apart(paths: Sequence[Path]) -> list[str]:
    """Names for tables: each file's or folder's own, its path where several have one name, numbered where that is one.

    >>> told_apart([Path("a/test.xyz"), Path("b/test.xyz"), Path("c/bulk.xyz")])
    ['a/test.xyz', 'b/test.xyz', 'bulk.xyz']
    """
    bases = Counter(path.name for path in paths)
    names = [path.name if bases[path.name] == 1 else str(path) for path in paths]
    alike = Counter(names)
    return [name if alike[name] == 1 else f"{name} ({place})" for place, name in enumerate(names, 1)]


def read_toml(path: Path | str, what: str = "configuration file") -> dict[str, Any]:
    """The tables of a TOML file, which may begin with the mark that Windows' editors write.

    Args:
        what: the file is, for messages.

    Raises:
        ConfigError: no such file, it cannot be read, or it is no TOML.
    """
    path = path_of(path, f"the path of a {what}", ConfigError)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"there is no {what} {path}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # of TOML, or of a text
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def publish(temporary: Path, path: Path) -> None:
    """Rename a synced file to its name, and make the rename durable."""
    os.replace(temporary, path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_text(path: Path, text: str) -> None:
    """Write a small file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def file_hash(path: Path, algorithm: HashName) -> str:
    """The hexadecimal hash of a file, read in pieces."""
    digest = hashlib.sha256() if algorithm == "sha256" else xxhash.xxh3_128()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(_PIECE), b""):
            digest.update(piece)
    return digest.hexdigest()


def sealed(document: Document) -> dict[str, JSON]:
    """A document with a checksum over all of it, which ``is_whole`` looks at.

    >>> is_whole(sealed({"ridge": 1e-6})), is_whole({"ridge": 1e-6}), is_whole({**sealed({"ridge": 1e-6}), "ridge": 1})
    (True, None, False)
    """
    return {**document, _SEAL: _document_hash(document)}


def is_whole(document: Document) -> bool | None:
    """Whether a document is as it was sealed; None for one without a seal, as those of 0.1.0 are."""
    if _SEAL not in document:
        return None
    return document[_SEAL] == _document_hash(unsealed(document))


def unsealed(document: Document) -> dict[str, JSON]:
    """A document without its seal."""
    return {key: value for key, value in document.items() if key != _SEAL}


@cache
def warn_unsealed(path: Path) -> None:
    """Say once of a file that damage in it would not be seen."""
    logging.getLogger("mekrr_scale").warning(
        "%s is of 0.1.0, whose files have no checksum over all that they hold: damage in it might not be seen", path
    )


def _document_hash(document: Document) -> str:
    plain = json.loads(json.dumps(document))  # as a reader will have it: keys are texts, tuples are lists
    return xxhash.xxh3_128(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def parse_bytes(text: str | int) -> int:
    """A size such as ``512M`` or ``2GB`` in bytes.

    >>> parse_bytes("512M")
    536870912

    Raises:
        ConfigError: not a size.
    """
    plain = str(text).strip().upper().removesuffix("IB").removesuffix("B").strip()
    number, unit = (plain[:-1], plain[-1]) if plain[-1:] in ("K", "M", "G", "T") else (plain, "")
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        raise ConfigError(f"{text!r} is not a size; write 512M or 2G") from None
    if size < 0:
        raise ConfigError(f"{text!r} is negative; write a size such as 2G")
    return size


def default_scratch() -> Path:
    """Where scratch files go: the job's own folder on the node, where the batch system makes one."""
    for name in ("SLURM_TMPDIR", "JOB_TMPDIR", "TMPDIR"):
        if os.environ.get(name):
            return Path(os.environ[name])
    return Path(tempfile.gettempdir())


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def is_device(path: Path) -> bool:
    """A terminal, a pipe, /dev/null: nothing that could be replaced."""
    text = os.path.abspath(path)
    if text.startswith(("/dev/fd/", "/proc/")) or text in ("/dev/stdout", "/dev/stderr"):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def final_path(path: Path) -> Path:
    """Where a file really lies: links are followed, not replaced."""
    return path.resolve() if path.is_symlink() else path


def temporary_path(folder: Path, suffix: str) -> Path:
    """A name that tells who writes there, so that it can be swept when they are dead."""
    return folder / f"{TEMPORARY}{_HOST}-{os.getpid()}-{uuid.uuid4().hex}{suffix}"


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A name to write to, which becomes the file's own when all went well; nothing is left of it otherwise.

    A file that is there keeps its permissions, a new one gets those of the umask. Links are followed.
    """
    path = Path(path)
    if is_device(path):
        with _through(path) as temporary:
            yield temporary
        return
    target = final_path(path)
    sweep(target.parent)
    temporary = temporary_path(target.parent, "".join(target.suffixes[-2:]))
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)  # less the umask
    mode = os.fstat(descriptor).st_mode & 0o7777
    os.close(descriptor)
    try:
        yield temporary
        if target.exists():
            mode = target.stat().st_mode & 0o7777
        _synced(temporary, mode)
        publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _synced(path: Path, mode: int) -> None:
    with path.open("rb+") as stream:  # some libraries make their files private
        os.fsync(stream.fileno())
    with suppress(PermissionError):  # of another owner's file
        path.chmod(mode)


@contextmanager
def _through(path: Path) -> Iterator[Path]:
    """A scratch file whose bytes go through a device or pipe at the end."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / f"output{''.join(path.suffixes[-2:])}"
        temporary.touch()
        yield temporary
        with temporary.open("rb") as source, path.open("wb") as sink:
            shutil.copyfileobj(source, sink)


def sweep(folder: Path, own: bool = False) -> None:
    """Remove what dead processes of this user have left in a folder while they wrote.

    Args:
        own: the folder is the package's, so that all names which begin as temporary ones do are its own.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        stale = [Path(entry.path) for entry in entries if _stale(entry, own)]
        for path in stale:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _stale(entry: os.DirEntry[str], own: bool) -> bool:
    found = _TEMPORARY_NAME.match(entry.name)
    old = _OLD_NAME.fullmatch(entry.name) is not None and entry.is_file(follow_symlinks=False)
    if found is None and not (old or (own and entry.name.startswith(TEMPORARY))):
        return False
    state = entry.stat(follow_symlinks=False)
    age = time.time() - state.st_mtime
    if state.st_uid != os.getuid():
        return False
    if found is not None and found[1] == _HOST:
        return age > _DEAD_SECONDS and not _alive(int(found[2]))
    return age > _UNKNOWN_SECONDS


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def scratch_folder(parent: Path, name: str) -> Path:
    """A new folder for what is deleted again, with a name that nobody else uses.

    Raises:
        OSError: it cannot be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    folder = temporary_path(parent, f"-{name}")
    folder.mkdir()
    return folder


class Lock:
    """Keeps others from writing where this process writes; it ends with the process, however that ends.

    Advisory (flock), so that a lock left by a kill does not exist. Where a file system has no locks, there is none.

    Args:
        path: a file that is made if need be.
        keep: the file is the output itself and stays.
        by_process: a process may take it again while it has it.

    Raises:
        ConfigError: another process, or another run of this one, holds it.
    """

    def __init__(self, path: Path, what: str, keep: bool = False, by_process: bool = False) -> None:
        self.path, self.keep, self.by_process = path, keep, by_process
        self._stream: Any = None
        self.made = not path.exists()
        self._take(what)

    def _take(self, what: str) -> None:
        import fcntl

        while self._stream is None:
            stream = self.path.open("ab")
            try:
                (fcntl.lockf if self.by_process else fcntl.flock)(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                stream.close()
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    raise ConfigError(f"{what} is being written by another run; wait for it, or name another") from None
                return  # no locks here
            if self._current(stream):
                self._stream = stream
            else:  # the one before has just put its file away
                stream.close()

    def _current(self, stream: Any) -> bool:
        try:
            return os.path.samestat(os.fstat(stream.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give it back; the file goes, unless it is the output or held by another."""
        if self._stream is None:
            return
        if not self.keep:
            self.path.unlink(missing_ok=True)
        self._stream.close()
        self._stream = None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Write to a file that others append to, too, alone.

    Raises:
        ConfigError: another run holds it.
    """
    lock = Lock(path, str(path), keep=True)
    try:
        yield
    finally:
        if lock.made and path.exists() and not path.stat().st_size:
            path.unlink()  # nothing came of it
        lock.release()
