"""The basis that every solver works in: K_ZZ = L L', coefficients c = T beta, T' K_ZZ T = 1.

In it the ridge is lambda |beta|^2 and the rows are Phi = K_nZ T. The plain normal equations
K_nZ' K_nZ + lambda K_ZZ square the condition number and lose accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import get_args

import torch
from jaxtyping import Float64, Int64
from scipy.linalg import lapack
from torch import Tensor

from mekrr_scale.arrays import eigh
from mekrr_scale.distributed import ALONE, Group
from mekrr_scale.errors import ConfigError, SolverError, require_known
from mekrr_scale.models.choices import WhiteningMethod


@dataclass(frozen=True)
class WhiteningBlock:
    """T of one diagonal block of K_ZZ: columns ``columns`` of the rows times ``matrix``."""

    columns: Int64[Tensor, " columns"]
    matrix: Float64[Tensor, "columns rank"]
    spectrum: Float64[Tensor, " rank"]  # kept eigenvalues, or squared pivots

    @property
    def span(self) -> slice | Tensor:
        """The columns, as a slice where they are consecutive: that copies nothing."""
        first, last = int(self.columns[0]), int(self.columns[-1]) + 1
        return slice(first, last) if last - first == len(self.columns) else self.columns


@dataclass(frozen=True)
class Whitening:
    """Blocks of T, in the order of the whitened coordinates."""

    blocks: tuple[WhiteningBlock, ...]
    n_columns: int

    @property
    def device(self) -> torch.device:
        """Where rows are whitened."""
        return self.blocks[0].matrix.device if self.blocks else torch.device("cpu")

    @property
    def rank(self) -> int:
        return sum(block.matrix.shape[1] for block in self.blocks)

    def on(self, device: torch.device | str) -> Whitening:
        """The same on a device."""
        blocks = (replace(b, matrix=b.matrix.to(device), spectrum=b.spectrum.to(device)) for b in self.blocks)
        return Whitening(tuple(blocks), self.n_columns)

    def rows(self, matrix: Float64[Tensor, "rows columns"]) -> Float64[Tensor, "rows rank"]:
        """Phi = K T."""
        if len(self.blocks) == 1:
            return matrix[:, self.blocks[0].span] @ self.blocks[0].matrix
        return torch.cat([matrix[:, block.span] @ block.matrix for block in self.blocks], 1)

    def pull(self, rows: Float64[Tensor, "columns k"]) -> Float64[Tensor, "rank k"]:
        """T' v, the adjoint of ``coefficients``."""
        return torch.cat([block.matrix.T @ rows[block.span] for block in self.blocks])

    def coefficients(self, beta: Float64[Tensor, "rank k"]) -> Float64[Tensor, "columns k"]:
        """c = T beta."""
        result = torch.zeros(self.n_columns, beta.shape[1], dtype=torch.float64, device=beta.device)
        start = 0
        for block in self.blocks:
            size = block.matrix.shape[1]
            result[block.span] = block.matrix @ beta[start : start + size]
            start += size
        return result


def whiten(
    grams: Iterable[Float64[Tensor, "_ _"] | Callable[[], Float64[Tensor, "_ _"]]],
    cut: float = 1e-11,
    method: WhiteningMethod = "eigen",
    group: Group = ALONE,
) -> Whitening:
    """Whiten the diagonal blocks of K_ZZ; they are dealt to the ranks, each of which gets them all.

    ``eigen``: K = V diag(w) V', keep w > cut * max(w), T = V w^-1/2. ``cholesky``: pivoted
    Cholesky (LAPACK dpstrf) until the largest remaining pivot is below cut * max; about ten times
    cheaper for large blocks, and the coefficients of dropped landmarks are zero.

    Args:
        grams: the blocks, or what makes them when their turn comes.
        cut: relative to the largest eigenvalue (pivot) of all blocks; 1e-8 loses accuracy.

    Raises:
        ConfigError: a cut outside (0, 1), or an unknown method.
        SolverError: K_ZZ holds no positive eigenvalue, or numbers that are not finite.
    """
    if not 0 < cut < 1:
        raise ConfigError(f"the whitening cut is {cut}; it lies between 0 and 1, usually 1e-12 to 1e-10")
    require_known("there is no whitening", method, get_args(WhiteningMethod))
    factor = _eigen if method == "eigen" else _cholesky
    factored = []
    for place, given in enumerate(grams):
        mine = place % group.size == group.rank
        gram = (given() if callable(given) else given) if mine else None
        if gram is not None and not bool(torch.isfinite(gram).all()):
            raise SolverError(
                "the landmarks' kernel matrix holds numbers that are not finite; check features and kernel"
            )
        factored.append(None if gram is None else factor(gram, cut))
        del gram
    if group.size > 1:
        factored = [_everyones(found, place % group.size, group) for place, found in enumerate(factored)]
    return _joined([found for found in factored if found is not None], cut)


def _everyones(found: tuple[Tensor, Tensor] | None, source: int, group: Group) -> tuple[Tensor, Tensor]:
    """One rank's factor on all ranks."""
    rows, rank = group.gather_json(None if found is None else list(found[0].shape))[source]
    nothing = torch.empty(rows, rank, dtype=torch.float64), torch.empty(rank, dtype=torch.float64)
    matrix, spectrum = nothing if found is None else (part.cpu() for part in found)
    return group.broadcast(matrix.contiguous(), source), group.broadcast(spectrum.contiguous(), source)


def _joined(factored: list[tuple[Tensor, Tensor]], cut: float) -> Whitening:
    """The blocks, cut at a part of the largest eigenvalue of all; the list is used up."""
    largest = max(float(spectrum.max()) if len(spectrum) else 0.0 for _, spectrum in factored)
    if largest <= 0:
        raise SolverError("the landmarks' kernel matrix has no positive eigenvalue; choose another kernel")
    blocks, start = [], 0
    while factored:
        matrix, spectrum = factored.pop(0)
        keep = spectrum > cut * largest
        columns = torch.arange(start, start + len(matrix))
        kept = matrix if bool(keep.all()) else matrix[:, keep]
        blocks.append(WhiteningBlock(columns, kept.contiguous(), spectrum[keep]))
        start += len(matrix)
    return Whitening(tuple(blocks), start)


def _eigen(gram: Tensor, cut: float) -> tuple[Tensor, Tensor]:
    w, v = eigh(gram)
    keep = w > cut * float(w[-1].clamp_min(1e-300))
    return v[:, keep].div_(w[keep].sqrt()), w[keep]


def _cholesky(gram: Tensor, cut: float) -> tuple[Tensor, Tensor]:
    largest = float(gram.diagonal().max())
    packed, pivots, rank, info = lapack.dpstrf(gram.cpu().numpy(), tol=cut * largest, lower=1)
    if info < 0:
        raise SolverError(f"pivoted Cholesky failed (LAPACK dpstrf, info {info}); use whitening 'eigen'")
    lower = torch.from_numpy(packed[:rank, :rank]).tril()
    inverse = torch.linalg.solve_triangular(lower, torch.eye(rank, dtype=torch.float64), upper=False)
    matrix = torch.zeros(len(gram), rank, dtype=torch.float64)
    matrix[torch.from_numpy(pivots[:rank].astype("int64") - 1)] = inverse.T
    return matrix, lower.diagonal().square()
