"""Rows kept for a solver that passes over them many times.

Tiers, by budget: memory (of the device that computes, then pinned memory of the host), then a
scratch file, read ahead by a thread while the solver computes. What is not to be kept is made anew
in every pass. A block has the same layout in every tier, so that the budget changes no bit of a
result.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mekrr_scale.arrays import RowKind
from mekrr_scale.errors import SolverError
from mekrr_scale.regression.blocks import RowBlock, Rows

_ALIGNED = 8  # float64 numbers of a cache line
_SMALL = 5  # numbers of a row beside its elements and species counts


@dataclass(frozen=True)
class _Packed:
    """A block as one matrix, and where it is."""

    kind: RowKind
    columns: int
    species: int
    rows: int
    key: Int64[Tensor, " rows"]  # on the host; float64 does not hold all of its digits
    tensor: Tensor | None  # None: in the file
    offset: int = 0

    @property
    def width(self) -> int:
        return packed_width(self.columns, self.species)


@dataclass
class KeptRows:
    """Blocks of ``rows``, made in the first pass and kept for the others until the context ends.

    Energy rows are the n x M set kernel, a factor (atoms / structures) smaller than the atom kernel: what
    passes over them several times should not evaluate it again and again.

    Args:
        memory_bytes: of memory for them; on a GPU the device's comes first.
        scratch: folder for a file of what does not fit; None to make everything anew instead.
        device_bytes: of the device's memory, where it is not the host's.
    """

    rows: Iterable[RowBlock]
    memory_bytes: int
    scratch: Path | None = None
    device_bytes: int = 0
    kept: bool = field(default=False, init=False)
    stored_bytes: dict[str, int] = field(default_factory=lambda: {"device": 0, "memory": 0, "scratch": 0}, init=False)
    _blocks: list[_Packed] = field(default_factory=list, init=False, repr=False)
    _file: BinaryIO | None = field(default=None, init=False, repr=False)
    _device: torch.device = field(default=torch.device("cpu"), init=False, repr=False)

    def __enter__(self) -> KeptRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.forget()

    def __iter__(self) -> Iterator[RowBlock]:
        yield from self._read() if self.kept else self._fill()

    def blocks(self, skip: int = 0) -> Iterator[RowBlock | None]:
        """See ``Rows``; nothing is kept in a pass that begins in the middle."""
        if not skip:
            return iter(self)
        if not isinstance(self.rows, Rows):
            raise SolverError("these rows can be passed over from their beginning alone")
        return self.rows.blocks(skip)

    def forget(self) -> None:
        """Give memory and file back; the next pass starts again."""
        self._blocks.clear()
        self.kept = False
        if self._file is not None:
            self._file.close()
            self._file = None

    def _fill(self) -> Iterator[RowBlock]:
        self.forget()
        self.stored_bytes = dict.fromkeys(self.stored_bytes, 0)
        keeping = True
        for block in self.rows:
            if not keeping or not isinstance(block.matrix, Tensor):
                keeping = False
                yield block
                continue
            packed = _pack(block)
            self._device = packed.device
            stored = self._store(block, packed)
            if stored is None:
                self.forget()
                keeping = False
            else:
                self._blocks.append(stored)
            yield block
        self.kept = keeping

    def _store(self, block: RowBlock, packed: Tensor) -> _Packed | None:
        columns, species = block.matrix.shape[1], block.counts.shape[1]
        on_gpu = packed.device.type == "cuda"
        size = packed.numel() * packed.element_size()
        place = _Packed(block.kind, columns, species, len(packed), block.key.cpu(), packed)
        if packed.device.type != "cpu":
            if self.stored_bytes["device"] + size <= self.device_bytes:
                self.stored_bytes["device"] += size
                return place
            packed = packed.cpu()
        if self.stored_bytes["memory"] + size <= self.memory_bytes:
            self.stored_bytes["memory"] += size
            return replace(place, tensor=packed.pin_memory() if on_gpu else packed)
        if self.scratch is None:
            return None
        offset = self.stored_bytes["scratch"]
        self.stored_bytes["scratch"] += size
        try:
            _write(self._scratch(), _bytes(packed))
        except OSError as error:
            raise SolverError(
                f"the scratch folder {self.scratch} has no room for rows beyond {offset / 1e9:.1f} GB ({error}); name "
                "one that has with --scratch, give a larger --memory, or --scratch none to make rows anew in every pass"
            ) from error
        return replace(place, tensor=None, offset=offset)

    def _scratch(self) -> BinaryIO:
        """A file without a name: it is gone when the process is, however that ends."""
        if self._file is None:
            assert self.scratch is not None
            self.scratch.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self.scratch, buffering=0)  # noqa: SIM115  open between passes
        return self._file

    def _read(self) -> Iterator[RowBlock]:
        in_file = [block for block in self._blocks if block.tensor is None]
        if not in_file:
            for block in self._blocks:
                assert block.tensor is not None
                yield _unpack(self._here(block.tensor), block)
            return
        size = max(block.rows * block.width for block in in_file)
        on_gpu = self._device.type == "cuda"
        buffers = [torch.empty(size, dtype=torch.float64, pin_memory=on_gpu) for _ in range(2)]
        with ThreadPoolExecutor(1, "mekrr-scratch") as reader:
            waiting = iter(in_file)
            ahead = reader.submit(self._load, next(waiting), buffers[0])
            turn = 0
            for block in self._blocks:
                tensor = block.tensor
                if tensor is None:
                    tensor = ahead.result().to(self._device)  # waits: the buffer is filled again soon
                    turn += 1
                    following = next(waiting, None)
                    if following is not None:
                        ahead = reader.submit(self._load, following, buffers[turn % 2])
                yield _unpack(self._here(tensor), block)

    def _here(self, tensor: Tensor) -> Tensor:
        """On the device that computes; from pinned memory without waiting for the copy."""
        return tensor.to(self._device, non_blocking=True)

    def _load(self, block: _Packed, buffer: Tensor) -> Tensor:
        assert self._file is not None
        tensor = buffer[: block.rows * block.width].view(block.rows, block.width)
        view = _bytes(tensor)
        done = 0
        while done < len(view):
            count = os.preadv(self._file.fileno(), [view[done:]], block.offset + done)
            if count == 0:
                raise SolverError(f"the scratch file in {self.scratch} ends early; is the disk full?")
            done += count
        return tensor


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _write(file: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def packed_width(columns: int, species: int) -> int:
    """Numbers that a kept row takes."""
    return -(-(columns + _SMALL + species) // _ALIGNED) * _ALIGNED


def _pack(block: RowBlock) -> Float64[Tensor, "rows width"]:
    assert isinstance(block.matrix, Tensor)
    rows, columns = block.matrix.shape
    packed = block.matrix.new_zeros(rows, packed_width(columns, block.counts.shape[1]))
    packed[:, :columns] = block.matrix
    small = torch.stack([block.target, block.weight, block.share, block.scale, block.fold.double()], 1)
    packed[:, columns : columns + _SMALL] = small
    packed[:, columns + _SMALL : columns + _SMALL + block.counts.shape[1]] = block.counts
    return packed


def _unpack(packed: Tensor, block: _Packed) -> RowBlock:
    small = packed[:, block.columns :].cpu()
    target, weight, share, scale, fold = small[:, :_SMALL].contiguous().unbind(1)
    return RowBlock(
        kind=block.kind,
        matrix=packed[:, : block.columns],
        target=target,
        weight=weight,
        share=share,
        counts=small[:, _SMALL : _SMALL + block.species],
        scale=scale,
        fold=fold.long(),
        key=block.key,
    )
