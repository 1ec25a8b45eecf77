"""Every mixing of species from one pass over the rows (``sum`` kernels).

Rows and K_ZZ are linear in 1 - alpha: K(alpha) = same + (1 - alpha) cross. One pass accumulates
the Gram matrices of both parts in the basis that whitens K_ZZ at alpha = 1, where it is block
diagonal; a second whitening, of 1 + (1 - alpha) T' cross T, leads from there to every alpha.
Gram matrices of rows that are not whitened lose too much accuracy for that. Since K(alpha) is at
least alpha K(1), the second step is well conditioned but for small alpha: at alpha = 0 it lost the
cross-validated errors altogether on real features, so such alphas need a pass of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import RowBlock
from mekrr_scale.baselines import Baseline
from mekrr_scale.distributed import ALONE, Checkpoint, Group
from mekrr_scale.errors import ConfigError
from mekrr_scale.rows import RowSource
from mekrr_scale.solvers.direct import Direct
from mekrr_scale.solvers.moments import accumulate
from mekrr_scale.solvers.solution import Solution
from mekrr_scale.whitening import Whitening, WhiteningBlock, whiten

SMALLEST_ALPHA = 0.1


@dataclass(frozen=True)
class MixedRows:
    """Blocks whose matrix is [same, cross], from the rows at alpha = 1 and at alpha = 0."""

    apart: RowSource
    alike: RowSource

    def __iter__(self) -> Iterator[RowBlock]:
        return (block for block in self.blocks() if block is not None)

    def blocks(self, skip: int = 0) -> Iterator[RowBlock | None]:
        """See ``RowSource``."""
        for own, whole in zip(self.apart.blocks(skip), self.alike.blocks(skip), strict=True):
            if own is None or whole is None:
                yield None
                continue
            yield replace(own, matrix=torch.cat([own.rows, whole.rows - own.rows], 1))


@final
@dataclass(frozen=True)
class AlphaSweep:
    """Solve for several alphas; each gets its ridge, weights and folds as ``direct`` says.

    The Gram matrices take four times the memory of a single alpha's.

    Raises:
        ConfigError: no alpha, or one outside [0.1, 1].
    """

    direct: Direct
    alphas: tuple[float, ...]
    cut: float = 1e-11

    def __post_init__(self) -> None:
        if not self.alphas or min(self.alphas) < SMALLEST_ALPHA or max(self.alphas) > 1:
            raise ConfigError(
                f"alphas {list(self.alphas)}: a sweep takes those between {SMALLEST_ALPHA} and 1; solve others alone"
            )

    def solve(
        self,
        rows: MixedRows,
        apart: Sequence[Float64[Tensor, "_ _"]],
        alike: Float64[Tensor, "columns columns"],
        baseline: Baseline,
        n_folds: int = 0,
        progress: Callable[[int], None] = lambda rows: None,
        group: Group = ALONE,
        checkpoint: Checkpoint | None = None,
    ) -> dict[float, Solution]:
        """One pass, then a solution for every alpha.

        Args:
            apart: diagonal blocks of K_ZZ at alpha = 1.
            alike: K_ZZ at alpha = 0.
        """
        base = whiten(apart, self.cut)
        count = base.n_columns
        shifted = tuple(replace(block, columns=block.columns + count) for block in base.blocks)
        both = Whitening(base.blocks + shifted, 2 * count)
        moments = accumulate(rows, both, len(baseline.species), max(n_folds, 1), progress, group, checkpoint)
        transform = base.coefficients(torch.eye(base.rank, dtype=torch.float64))
        cross = base.pull((alike - torch.block_diag(*apart)) @ transform)
        found = {}
        for alpha in self.alphas:
            mixed = torch.eye(base.rank, dtype=torch.float64) + (1 - alpha) * (cross + cross.T) / 2
            second = whiten([mixed], self.cut).blocks[0]
            basis = torch.cat([second.matrix, (1 - alpha) * second.matrix])
            projected = {kind: [part.projected(basis) for part in parts] for kind, parts in moments.items()}
            block = WhiteningBlock(torch.arange(count), transform @ second.matrix, second.spectrum)
            found[alpha] = self.direct.from_moments(projected, Whitening((block,), count), baseline, n_folds, group)
        return found
