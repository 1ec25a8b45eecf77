"""Functions of edges, bonds or angles and their sums, chunk by chunk where a graph asks for it.

What a network makes of each edge on the way is most of its memory, and derivatives ask for all of it again. In chunks
it is made, summed, and forgotten; for derivatives each chunk is made once more, differentiated, and forgotten. Between
steps only their inputs stay. The sums are the same, in another order: it costs a second forward pass, and no accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from jaxtyping import Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from mekrr_scale.structures import Graph

# the argument of a function of rows: row r is the tensor's row ``places[r]``, or its row r
Rows: TypeAlias = tuple[Tensor, Int[Tensor, " rows"] | None]
RowFunction: TypeAlias = Callable[..., Tensor]
PartsFunction: TypeAlias = Callable[..., Tensor | Sequence[Tensor]]  # columns of the parts lie side by side


def rows_of(graph: Graph, tensor: Tensor, places: Int[Tensor, " rows"]) -> Rows:
    """Rows that several steps take: made once and kept, or in chunks taken anew by each."""
    return (_taken((tensor, places)), None) if graph.at_once is None else (tensor, places)


def of_rows(graph: Graph, function: RowFunction, *inputs: Rows) -> Tensor:
    """The function's value for each row.

    Args:
        function: of as many tensors as there are inputs, each with the same rows; row by row.
    """
    if graph.at_once is None:
        return function(*(_taken(given) for given in inputs))
    return _chunked(_Job(function, graph.at_once, tuple(places for _, places in inputs)), inputs)


def sum_rows(graph: Graph, index: Int[Tensor, " rows"], size: int, function: PartsFunction, *inputs: Rows) -> Tensor:
    """Sums of the function's values over the rows that belong together.

    Args:
        index: which of ``size`` sums each row belongs to.
        function: see ``of_rows``; it may give its values in several parts, which are joined when they are summed.
    """
    if graph.at_once is None:
        parts = _parts(function(*(_taken(given) for given in inputs)))
        sums = [part.new_zeros(size, part.shape[1]).index_add(0, index, part) for part in parts]
        return sums[0] if len(sums) == 1 else torch.cat(sums, 1)
    return _chunked(_Job(function, graph.at_once, tuple(places for _, places in inputs), index, size), inputs)


def _taken(given: Rows) -> Tensor:
    tensor, places = given
    return tensor if places is None else tensor.index_select(0, places)


def _parts(values: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [values] if isinstance(values, Tensor) else values


def _divided(joined: Tensor, parts: Sequence[Tensor]) -> Sequence[Tensor]:
    """What of the joined columns belongs to each part."""
    found: Sequence[Tensor] = joined.split([part.shape[1] for part in parts], 1)
    return found


def _chunked(job: _Job, inputs: Sequence[Rows]) -> Tensor:
    return _Chunked.apply(job, *(tensor for tensor, _ in inputs))  # type: ignore[no-any-return, no-untyped-call]


@final
@dataclass(frozen=True)
class _Job:
    """A function of rows, and what becomes of its values."""

    function: PartsFunction
    at_once: int
    places: tuple[Int[Tensor, " rows"] | None, ...]
    index: Int[Tensor, " rows"] | None = None
    size: int = 0

    def rows(self, tensors: Sequence[Tensor]) -> int:
        first = self.places[0]
        return len(tensors[0] if first is None else first)

    def chunks(self, tensors: Sequence[Tensor]) -> Iterator[slice]:
        """Ranges of rows; one at least, from which the shape of the result is known."""
        rows = self.rows(tensors)
        return (slice(a, min(a + self.at_once, rows)) for a in range(0, max(rows, 1), self.at_once))

    def inputs(self, tensors: Sequence[Tensor], rows: slice) -> list[Tensor]:
        pairs = zip(tensors, self.places, strict=True)
        return [tensor[rows] if places is None else _taken((tensor, places[rows])) for tensor, places in pairs]

    def values(self, tensors: Sequence[Tensor]) -> Tensor:
        """Of all rows, or their sums."""
        found: Tensor | None = None
        for rows in self.chunks(tensors):
            parts = _parts(self.function(*self.inputs(tensors, rows)))
            if found is None:
                size = self.rows(tensors) if self.index is None else self.size
                found = torch.cat([part.new_zeros(size, *part.shape[1:]) for part in parts], 1)
            for into, part in zip(_divided(found, parts), parts, strict=True):
                if self.index is None:
                    into[rows] = part
                else:
                    into.index_add_(0, self.index[rows], part)
        assert found is not None
        return found

    def slopes(self, tensors: Sequence[Tensor], by_values: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
        """Derivatives by the tensors, of what has the given derivatives by the values or sums."""
        total = [torch.zeros_like(tensor) if want else None for tensor, want in zip(tensors, wanted, strict=True)]
        for rows in self.chunks(tensors):
            inputs = self.inputs(tensors, rows)
            moved = [given.detach().requires_grad_(want) for given, want in zip(inputs, wanted, strict=True)]
            with torch.enable_grad():
                parts = _parts(self.function(*moved))
            seeds = by_values[rows] if self.index is None else by_values[self.index[rows]]
            asked = [given for given, want in zip(moved, wanted, strict=True) if want]
            found = iter(torch.autograd.grad(parts, asked, _divided(seeds, parts), allow_unused=True))
            for into, places in zip(total, self.places, strict=True):
                slope = None if into is None else next(found)
                if into is None or slope is None:
                    continue
                if places is None:
                    into[rows] = slope
                else:
                    into.index_add_(0, places[rows], slope)
        return total


@final
class _Chunked(torch.autograd.Function):
    """A job as one step of a differentiable computation, which keeps the step's inputs and nothing else."""

    @staticmethod
    def forward(ctx: Any, job: _Job, *tensors: Tensor) -> Tensor:
        ctx.job = job
        ctx.save_for_backward(*tensors)
        return job.values(tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_values: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.job.slopes(ctx.saved_tensors, by_values, ctx.needs_input_grad[1:])
