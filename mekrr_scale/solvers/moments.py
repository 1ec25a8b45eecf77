"""Sums over the rows from which every ridge, weight and fold follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import torch
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.distributed import ALONE, Checkpoint, Group, State
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.models import Whitening
from mekrr_scale.regression import RowBlock, Rows
from mekrr_scale.solvers.solution import PathPoint

T = TypeVar("T")

FEW = 16  # structures of a fold: errors of fewer scatter too much to be told apart


@dataclass
class Moments:
    """Sums over the rows of one kind and fold; r is the target, N the species counts.

    Rows are kept as they are (times the root of their weight) while they are fewer than half
    the rank: a Gram matrix of so few is singular, and the rows themselves are shorter.
    """

    target: Float64[Tensor, " rank"]  # Phi' W r
    counts: Float64[Tensor, "rank species"]  # Phi' W N
    target_square: float = 0.0  # r' W r
    target_counts: Tensor = field(default_factory=lambda: torch.zeros(0))  # N' W r
    counts_square: Tensor = field(default_factory=lambda: torch.zeros(0))  # N' W N
    share: float = 0.0  # what to divide by for a mean over structures
    rows: int = 0
    # of total energies, by shares: what the composition baseline is refitted from
    plain_gram: Tensor = field(default_factory=lambda: torch.zeros(0))  # N' N
    plain_target: Tensor = field(default_factory=lambda: torch.zeros(0))  # N' r
    _summed: Tensor | None = None
    _kept: list[Tensor] = field(default_factory=list)

    @classmethod
    def zero(cls, rank: int, species: int, device: torch.device | str = "cpu") -> Moments:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        return cls(
            zeros(rank), zeros(rank, species), 0.0, zeros(species), zeros(species, species),
            0.0, 0, zeros(species, species), zeros(species),
        )  # fmt: skip

    def on(self, device: torch.device | str) -> Moments:
        """The same on a device."""
        there = replace(self, _kept=[rows.to(device) for rows in self._kept])
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(there, name, value.to(device))
        return there

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Everything as named tensors, for a checkpoint."""
        scalars = torch.tensor([self.target_square, self.share, float(self.rows)], dtype=torch.float64)
        found = {
            "target": self.target,
            "counts": self.counts,
            "scalars": scalars,
            "target_counts": self.target_counts,
            "counts_square": self.counts_square,
            "plain_gram": self.plain_gram,
            "plain_target": self.plain_target,
        }
        factor = self.factor
        found["gram" if factor is None else "kept"] = self.gram if factor is None else factor
        return {f"{name}/{key}": value for key, value in found.items()}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], name: str) -> Moments:
        """The inverse of ``tensors``."""
        at = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
        square, share, rows = at["scalars"].tolist()
        return cls(
            at["target"], at["counts"], square, at["target_counts"], at["counts_square"], share, int(rows),
            at["plain_gram"], at["plain_target"], at.get("gram"), [at["kept"]] if "kept" in at else [],
        )  # fmt: skip

    def added(self, other: Moments) -> Moments:
        """The sums over the rows of both."""
        if not other.rows or not self.rows:
            return self if not other.rows else other
        own, others = self.factor, other.factor
        light = own is not None and others is not None and len(own) + len(others) <= len(self.target) // 2
        return Moments(
            self.target + other.target,
            self.counts + other.counts,
            self.target_square + other.target_square,
            self.target_counts + other.target_counts,
            self.counts_square + other.counts_square,
            self.share + other.share,
            self.rows + other.rows,
            self.plain_gram + other.plain_gram,
            self.plain_target + other.plain_target,
            None if light else self.gram + other.gram,
            [own, others] if light and own is not None and others is not None else [],
        )

    def reduced(self, group: Group) -> Moments:
        """The sums over the rows of all ranks."""
        rank = len(self.target)
        rows, flushed = group.sum(torch.tensor([self.rows, int(self._summed is not None)])).tolist()
        if not rows or group.size == 1:
            return self
        factor = group.joined(self.factor) if not flushed and rows <= rank // 2 and self.factor is not None else None
        scalars = group.sum(torch.tensor([self.target_square, self.share], dtype=torch.float64)).tolist()
        return Moments(
            group.sum(self.target), group.sum(self.counts), scalars[0], group.sum(self.target_counts),
            group.sum(self.counts_square), scalars[1], rows, group.sum(self.plain_gram), group.sum(self.plain_target),
            group.sum(self.gram) if factor is None else None, [] if factor is None else [factor],
        )  # fmt: skip

    @property
    def keeps_rows(self) -> bool:
        """Whether the rows are there; they are not once there are many, or their products were asked for."""
        return self._summed is None

    @property
    def factor(self) -> Float64[Tensor, "rows rank"] | None:
        """W^1/2 Phi, or None where the rows are not kept."""
        if not self.keeps_rows:
            return None
        return torch.cat(self._kept) if self._kept else self.target.new_zeros(0, len(self.target))

    @property
    def gram(self) -> Float64[Tensor, "rank rank"]:
        """Phi' W Phi; rows that were kept are not any more."""
        self._flush()
        return self.target.new_zeros(len(self.target), len(self.target)) if self._summed is None else self._summed

    def add(self, phi: Tensor, block: RowBlock, chosen: Tensor) -> None:
        rows, r, w, scale = phi[chosen], block.target[chosen], block.weight[chosen], block.scale[chosen]
        if not len(r):
            return
        plain = block.counts[chosen]
        n = plain * scale[:, None]
        rooted = rows * w.sqrt()[:, None]
        self._kept.append(rooted)
        if sum(map(len, self._kept)) > len(self.target) // 2:
            self._flush()
        root = w.sqrt()
        self.target += rooted.T @ (root * r)
        self.counts += rooted.T @ (root[:, None] * n)
        self.target_square += float((w * r).dot(r))
        self.target_counts += n.T @ (w * r)
        self.counts_square += (n * w[:, None]).T @ n
        self.share += float(block.share[chosen].sum())
        self.rows += len(r)
        shared = plain * block.share[chosen][:, None]
        self.plain_gram += shared.T @ plain
        self.plain_target += shared.T @ (r / scale)

    def projected(self, basis: Float64[Tensor, "rank smaller"]) -> Moments:
        """The same sums for rows Phi P."""
        if not self.rows:
            return self
        factor = self.factor
        return replace(
            self,
            target=basis.T @ self.target,
            counts=basis.T @ self.counts,
            _summed=basis.T @ self.gram @ basis if factor is None else None,
            _kept=[] if factor is None else [factor @ basis],
        )

    def squared_error(self, beta: Tensor, shift: Tensor) -> Tensor:
        """Weighted squared errors of solutions [rank, k] after a shift of the baseline."""
        moved = self.target - self.counts @ shift
        square = self.target_square - 2 * shift @ self.target_counts + shift @ self.counts_square @ shift
        factor = self.factor
        if factor is None:
            fitted, size = ((self.gram @ beta) * beta).sum(0), float(self.gram.norm())
        else:
            fitted, size = (factor @ beta).square().sum(0), float(factor.square().sum())
        error = fitted - 2 * moved @ beta + square
        # what rounding leaves of the cancellation: an error below it is not known, and must not win
        unknown = 4 * torch.finfo(torch.float64).eps * size * beta.square().sum(0)
        return torch.maximum(error, unknown)

    def _flush(self) -> None:
        if not self._kept:
            return
        rows = torch.cat(self._kept)
        self._kept = []
        if self._summed is None:
            self._summed = rows.T @ rows
        else:
            self._summed.addmm_(rows.T, rows)


def root_mean(squares: Float64[Tensor, " ridges"], share: float) -> Float64[Tensor, " ridges"]:
    """Errors of one kind of rows: NaN without rows; of rows whose errors are no numbers infinite, so that they lose."""
    if not share:
        return torch.full_like(squares, torch.nan)
    return (squares / share).sqrt().nan_to_num(nan=torch.inf, posinf=torch.inf)


def cross_validated(
    ridges: Sequence[float],
    weights: ByKind[float],
    left_out: Mapping[RowKind, Sequence[tuple[Float64[Tensor, " ridges"], float]]],
) -> list[PathPoint]:
    """Errors at each ridge.

    Args:
        left_out: by kind, and fold by fold, sums of squared errors at each ridge, and what to divide them by.
    """
    means, typical, apart = {}, {}, {}
    for kind, folds in left_out.items():
        squares, shares = [square for square, _ in folds], [share for _, share in folds]
        means[kind] = root_mean(torch.stack(squares).sum(0), sum(shares)).tolist()
        typical[kind] = typical_error(squares, shares).tolist()
        apart[kind] = list(zip(*told_apart(squares, shares).tolist(), strict=True)) if all(shares) else []

    def at(place: int, errors: Mapping[RowKind, Sequence[T]], missing: T) -> ByKind[T]:
        return ByKind.of({kind: found[place] for kind, found in errors.items() if found}, missing)

    return [
        PathPoint(ridge, weights, at(i, means, math.nan), at(i, typical, math.nan), at(i, apart, ()))
        for i, ridge in enumerate(ridges)
    ]


def typical_error(squares: Sequence[Float64[Tensor, " ridges"]], shares: Sequence[float]) -> Float64[Tensor, " ridges"]:
    """Errors of one kind of rows, folds told apart: the geometric mean of the folds' root mean squared errors.

    A structure far outside the others, which no model that has not seen it gets right, makes the error of its own fold
    large for every candidate, and so hardly says which of them is better. Of a mean over all rows its error may be
    most, and how it happens to fall then decides. Folds of fewer than sixteen structures are not told apart, since
    their errors scatter too much.
    """
    apart = told_apart(squares, shares)
    if not len(apart):
        return root_mean(torch.stack([*squares]).sum(0), sum(shares))
    return apart.log().mean(0).exp().nan_to_num(nan=torch.inf, posinf=torch.inf)


def told_apart(
    squares: Sequence[Float64[Tensor, " ridges"]], shares: Sequence[float]
) -> Float64[Tensor, "folds ridges"]:
    """The root mean squared errors of the folds that hold rows; none where the smallest holds too few structures."""
    there = [root_mean(square, share) for square, share in zip(squares, shares, strict=True) if share]
    if not there or min(share for share in shares if share) < FEW:
        return torch.empty(0, len(squares[0]), dtype=torch.float64)
    return torch.stack(there)


MomentTable = dict[RowKind, list[Moments]]  # by kind and fold


def accumulate(
    rows: Iterable[RowBlock],
    whitening: Whitening,
    n_species: int,
    n_folds: int,
    progress: Callable[[int], None] = lambda rows: None,
    group: Group = ALONE,
    checkpoint: Checkpoint | None = None,
) -> MomentTable:
    """Sums over all rows in one pass, by kind and fold; memory does not depend on the rows.

    Args:
        rows: of this rank; a ``Rows`` if there is a checkpoint.
        checkpoint: where this rank's sums are kept now and then, and taken up from. With another
            number of ranks the pass begins anew.

    Raises:
        SolverError: no rows, or rows that are not finite.
    """
    name = f"sums-{group.rank + 1}of{group.size}"
    moments: MomentTable = {kind: [Moments.zero(0, n_species) for _ in range(n_folds)] for kind in RowKind}
    state = None if checkpoint is None else checkpoint.load_own(name)
    done = 0
    if state is not None:
        done = cast(int, state.values["blocks"])
        restored = restored_table(state.tensors, n_folds)
        moments = {kind: [part.on(whitening.device) for part in parts] for kind, parts in restored.items()}
        progress(sum(part.rows for parts in moments.values() for part in parts))
    blocks: Iterable[RowBlock | None] = rows.blocks(done) if done and isinstance(rows, Rows) else rows
    for made in blocks:
        if made is None:
            continue
        block = made.on(whitening.device)
        phi = whitening.rows(block.rows)
        if not bool(torch.isfinite(phi.sum())):
            raise SolverError("a row of the design matrix is not finite; check the features (`store verify`)")
        check_folds(block, n_folds)
        _add(moments, phi, block, n_folds)
        progress(len(block.target))
        done += 1
        if checkpoint is not None and checkpoint.due_here():
            checkpoint.save(name, State(table_tensors(moments), {"blocks": done}))
            checkpoint.end_if_stopped()
    moments = {kind: [part.on("cpu") for part in parts] for kind, parts in moments.items()}
    if group.size > 1:
        if checkpoint is not None and (state is not None or checkpoint.late(0.1)):
            # another rank may fail before the sums meet
            checkpoint.save(name, State(table_tensors(moments), {"blocks": done}))
        moments = {
            kind: [(p if len(p.target) else Moments.zero(whitening.rank, n_species)).reduced(group) for p in parts]
            for kind, parts in moments.items()
        }
    if not any(part.rows for parts in moments.values() for part in parts):
        raise SolverError("there is not a single row to fit; no structure in the store has a usable label")
    return moments


def _add(moments: MomentTable, phi: Float64[Tensor, "rows rank"], block: RowBlock, n_folds: int) -> None:
    """A block's rows to the sums of their folds."""
    for fold in range(n_folds):
        part = moments[block.kind][fold]
        if len(part.target) == 0:
            part = moments[block.kind][fold] = Moments.zero(phi.shape[1], block.counts.shape[1], phi.device)
        part.add(phi, block, block.fold == fold if n_folds > 1 else torch.ones_like(block.fold, dtype=torch.bool))


def table_tensors(moments: MomentTable) -> dict[str, Tensor]:
    """All sums as named tensors."""
    found: dict[str, Tensor] = {}
    for kind, parts in moments.items():
        for fold, part in enumerate(parts):
            found |= part.tensors(f"{kind.name}/{fold}")
    return found


def restored_table(tensors: Mapping[str, Tensor], n_folds: int) -> MomentTable:
    """The inverse of ``table_tensors``; kinds that an older version did not know are without rows."""
    n_species = tensors[f"{RowKind.ENERGY.name}/0/counts"].shape[1]
    known = {name.split("/")[0] for name in tensors}
    return {
        kind: [
            Moments.restored(tensors, f"{kind.name}/{fold}") if kind.name in known else Moments.zero(0, n_species)
            for fold in range(n_folds)
        ]
        for kind in RowKind
    }


def check_folds(block: RowBlock, n_folds: int) -> None:
    """Refuse rows whose folds are not those of the solve.

    Raises:
        ConfigError: more folds in the rows than asked for.
    """
    if n_folds > 1 and len(block.fold) and int(block.fold.max()) >= n_folds:
        raise ConfigError(f"rows of fold {int(block.fold.max())} in a solve with {n_folds} folds; assign them alike")


def joined_moments(old: MomentTable, new: MomentTable) -> MomentTable:
    """The sums over the rows of both."""
    return {kind: [a.added(b) for a, b in zip(old[kind], new[kind], strict=True)] for kind in RowKind}
