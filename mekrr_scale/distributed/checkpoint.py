"""States of running fits on disk: written atomically, refused for another problem, torn ones passed over."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mekrr_scale.distributed.group import ALONE, Group
from mekrr_scale.errors import ConfigError, StoppedError
from mekrr_scale.files import Lock, replacing, sweep, warn_unsealed
from mekrr_scale.progress import LOGGER

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_DTYPES = {str(dtype): dtype for dtype in (torch.float64, torch.float32, torch.int64, torch.bool)}


@dataclass(frozen=True)
class State:
    """What a checkpoint holds."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, object] = field(default_factory=dict)  # JSON


class StopSignals:
    """SIGTERM and SIGUSR1 as a request to stop at the next good moment.

    Within ``deferred`` the request waits for ``asked`` to be looked at; elsewhere it ends the work
    at once with ``StoppedError``, since nothing would be lost.
    """

    def __init__(self) -> None:
        self.asked = False
        self._deferred = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not self._deferred:
            raise StoppedError(f"stopped by {signal.Signals(number).name}; run the same command again to go on")


@dataclass
class _Family:
    """What the checkpoint of a problem and those of its parts share."""

    problems: list[Mapping[str, object]] = field(default_factory=list)  # their identities
    paths: set[Path] = field(default_factory=set)  # read or written by this process
    trouble: str = ""  # why the last state could not be written
    release: Callable[[], object] | None = None  # gives the lock back

    @property
    def name(self) -> str:
        """Tells the problem from others, whatever its parts say of themselves."""
        return xxhash.xxh3_128_hexdigest(json.dumps(self.problems[:1], sort_keys=True).encode())


@dataclass
class Checkpoint:
    """A folder of states of one problem.

    Writing never ends the work: what cannot be written is told, and the work goes on without it. States of other
    problems in the folder, and files that are no states, are left alone.

    Args:
        identity: what the problem is; a state of another one is refused.
        interval: seconds between saves.
    """

    folder: Path
    identity: Mapping[str, object]
    group: Group = ALONE
    interval: float = 300.0
    stop: StopSignals = field(default_factory=StopSignals)
    prefix: str = ""
    _saved: float = field(default_factory=time.monotonic)
    _looked: float = 0.0
    _family: _Family = field(default_factory=_Family)  # what it shares with its parts

    def __post_init__(self) -> None:
        if self.identity:
            self._family.problems.append(self.identity)

    def part(self, name: str, identity: Mapping[str, object]) -> Checkpoint:
        """The checkpoint of a part of the problem, in the same folder."""
        merged = {**self.identity, **identity}
        return Checkpoint(
            self.folder, merged, self.group, self.interval, self.stop, f"{self.prefix}{name}-" if name else self.prefix,
            _family=self._family,
        )  # fmt: skip

    def due(self) -> bool:
        """Whether all ranks should save now, since it is late or one was asked to stop; every rank must ask."""
        return self._agreed(self.late())

    def late(self, part: float = 1.0) -> bool:
        """Whether the interval, or a part of it, has passed since the last save."""
        return time.monotonic() - self._saved >= part * self.interval

    def due_here(self) -> bool:
        """Whether this rank should save now, whatever the others do."""
        return self.late() or self.stopping()

    def stopping(self) -> bool:
        """Whether any rank was asked to stop, by a signal or by a file ``stop`` in the folder."""
        now = time.monotonic()
        if now - self._looked > 1.0:
            self._looked = now
            self.stop.asked |= (self.folder / "stop").exists()
            if self.group.size > 1:
                self.stop.asked = self.group.count("stop", int(self.stop.asked)) > 0
        return self.stop.asked

    def end_if_stopped(self) -> None:
        """End the work after a save.

        Raises:
            StoppedError: a signal asked for it.
        """
        if self.stopping():
            with suppress(OSError):  # of a full disk
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / "stopped").touch()
            trouble = self._family.trouble
            kept = f"its last state could not be written ({trouble})" if trouble else f"the state is in {self.folder}"
            raise StoppedError(f"stopped by a signal; {kept}, run the same command again to go on")

    def save(self, name: str, state: State) -> None:
        """Write a state; the one before is kept beside it until the next."""
        self._saved = time.monotonic()
        path = self._path(name)
        self._family.paths.add(path)
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.tensors.items()}
        texts = {
            "identity": json.dumps(self.identity, sort_keys=True), "values": json.dumps(state.values),
            "family": self._family.name,
        }  # fmt: skip
        header = {**texts, "seal": _digest(tensors, texts)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                save_file(tensors, temporary, header)
                if path.exists():
                    os.replace(path, self._previous(name))
            self._family.trouble = ""
        except (OSError, SafetensorError, RuntimeError) as error:  # a full disk has many names
            self._family.trouble = str(error)
            warnings.warn(f"the checkpoint {path} could not be written: {error}", RuntimeWarning, stacklevel=2)

    def load_own(self, name: str) -> State | None:
        """The newest whole state of that name, or None.

        Raises:
            ConfigError: it belongs to another problem; says what differs.
        """
        for path in (self._path(name), self._previous(name)):
            self._family.paths.add(path)
            found = _read(path)
            if found is None:
                if path.exists():
                    LOGGER.warning(
                        "%s is damaged and passed over; the work goes on from the state before, if any", path
                    )
                continue
            header, tensors = found
            self._require(json.loads(header["identity"]), path)
            return State(tensors, json.loads(header["values"]))
        return None

    def load(self, name: str) -> State | None:
        """The same as the first rank reads it, on all ranks."""
        state, trouble = None, ""
        if self.group.rank == 0:
            try:
                state = self.load_own(name)
            except ConfigError as error:
                trouble = str(error)
        if self.group.size == 1 and not trouble:
            return state
        shapes = None if state is None else {k: [str(t.dtype), list(t.shape)] for k, t in state.tensors.items()}
        trouble, shapes, values = self.group.gather_json(
            [trouble, shapes, None if state is None else dict(state.values)]
        )[0]
        if trouble:
            raise ConfigError(trouble)
        if shapes is None:
            return None
        tensors = {}
        for key, (dtype, shape) in shapes.items():
            mine = torch.empty(shape, dtype=_DTYPES[dtype]) if state is None else state.tensors[key]
            tensors[key] = self.group.broadcast(mine)
        return State(tensors, values)

    def begin(self) -> None:
        """Forget that a run before this one was asked to stop, and keep other processes out of the folder.

        Raises:
            ConfigError: another process works in the folder.
            StoppedError: this is torchrun's restart of a run that a file ``stop`` has ended. (Signals say
                nothing here: torchrun sends SIGTERM to the ranks that are left when one is lost, too.)
        """
        restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
        if restarted and (self.folder / "stop").exists():
            raise StoppedError(f"stopped before; the state is in {self.folder}, run the same command again to go on")
        if self.group.rank == 0:
            self._lock()
            for name in ("stop", "stopped"):
                with suppress(NotADirectoryError):
                    (self.folder / name).unlink(missing_ok=True)
        self.group.barrier()

    def _lock(self) -> None:
        """Until this object ends, or the process, however it ends."""
        folder = self.folder.resolve()  # "." has no name to put a lock beside
        with suppress(OSError):  # where nothing can be written, a save will tell
            if not folder.name:
                return
            beside = folder.with_name(f"{folder.name}.lock")
            beside.parent.mkdir(parents=True, exist_ok=True)
            lock = Lock(beside, f"the state in {self.folder}", by_process=True)
            self._family.release = weakref.finalize(self, lock.release)

    def began(self) -> bool:
        """Whether this problem has lasted long enough, on the first rank, for its end to be kept."""
        return self._agreed(self.folder.exists() or self.late(0.1))

    def _agreed(self, here: bool) -> bool:
        """What the first rank says, or that any rank was asked to stop, which all then know."""
        flags = torch.tensor([int(self.group.rank == 0 and here), int(self.stopping())])
        said, asked = self.group.maximum(flags).tolist()
        self.stop.asked = bool(asked)
        return bool(said or asked)

    def remove(self, name: str = "") -> None:
        """Delete a state, or for no name those of this problem."""
        if name:
            paths = [self._path(name), self._previous(name)]
        else:
            paths = [path for path in self.folder.glob(f"{self.prefix}*.safetensors") if self._owns(path)]
        for path in paths:
            with suppress(OSError):  # the work does not end with what is left over
                path.unlink(missing_ok=True)

    def _owns(self, path: Path) -> bool:
        """Whether a file is a state of this problem, or of a part of it."""
        if path in self._family.paths or path.with_name(path.name.replace(".previous.", ".")) in self._family.paths:
            return True
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                found = json.loads(header["identity"])
            # a part may call something by a name that the problem has for something else
            return (self._family.problems and header.get("family") == self._family.name) or any(
                _within(problem, found) for problem in self._family.problems
            )
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):  # somebody else's
            return False

    def clear(self) -> None:
        """Delete what this problem has left: the work is done."""
        self.remove()
        with suppress(OSError):
            for name in ("stop", "stopped"):
                (self.folder / name).unlink(missing_ok=True)
            sweep(self.folder)
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()
        if self._family.release is not None:
            self._family.release()

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.prefix}{name}.safetensors"

    def _previous(self, name: str) -> Path:
        return self.folder / f"{self.prefix}{name}.previous.safetensors"

    def _require(self, found: Mapping[str, object], path: Path) -> None:
        mine = json.loads(json.dumps(self.identity))
        differing = [
            key for key in sorted({*mine, *found}) if mine.get(key) != found.get(key) and not _untold(key, found)
        ]
        if differing:
            changes = "; ".join(
                f"{key} was {_short(found.get(key))}, now {_short(mine.get(key))}" for key in differing[:5]
            )
            raise ConfigError(
                f"{path} is the state of another fit ({changes}); delete {self.folder} to start anew, or name another "
                "folder with --checkpoint"
            )


def _untold(key: str, found: Mapping[str, object]) -> bool:
    """Whether a state is of a version that did not look into files yet, or knew one exponential alone."""
    return (key.endswith("_content") or key == "exponential") and key not in found


def _within(problem: Mapping[str, object], found: Mapping[str, object]) -> bool:
    plain = json.loads(json.dumps(problem))
    return all(_untold(key, found) or found.get(key, ...) == value for key, value in plain.items())


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]] | None:
    """Header and tensors of a state; None where it is missing, torn or damaged."""
    try:
        with safe_open(path, "pt") as file:
            header = dict(file.metadata() or {})
            # copies: products of matrices that lie at odd addresses differ in their last bits
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118  not a mapping
    except (OSError, SafetensorError, ValueError):
        return None
    texts = {key: header.get(key, "") for key in ("identity", "values")}
    plain = all(_is_document(text) for text in texts.values())
    family = {"family": header["family"]} if "family" in header else {}
    if header.get("seal") == _digest(tensors, texts | family) and plain:
        return header, tensors
    if header.get("xxh3") != _digest(tensors, {}) or not plain:
        return None
    warn_unsealed(path)
    return header, tensors


def _is_document(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _digest(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """Checksum of arrays, and of texts with their names; 0.1.0 had none of the texts, dtypes and shapes."""
    digest = xxhash.xxh3_128()
    for key in sorted(tensors):
        shape = f"{tensors[key].dtype}{tuple(tensors[key].shape)}" if texts else ""
        digest.update(f"{key}{shape}".encode())
        digest.update(tensors[key].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    for key, text in sorted(texts.items()):
        digest.update(f"{key}{len(text)} {text}".encode())
    return digest.hexdigest()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
