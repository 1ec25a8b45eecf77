"""Sizes and rates from which the memory and time of a fit are estimated before it runs. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mekrr_scale import regression

DOUBLE = 8  # bytes of a float64


@dataclass(frozen=True)
class Rates:
    """Seconds, measured on this machine."""

    statistics: float  # per structure: passes for statistics, landmarks and folds
    kernel: float  # per energy row
    derivative: float  # per derivative row
    flop: float  # of a large matrix product
    thin: float  # per element of a matrix that few vectors are multiplied with
    eigen: float  # per cubed size
    prior: float  # per structure: K(x, x), for uncertainties
    lone_prior: float  # the same of one atom
    derivative_prior: float  # the same along a direction
    copy: float  # per byte
    write: float  # per byte, to the scratch file


@dataclass(frozen=True)
class Stage:
    """A part of a fit, on the rank that has most to do."""

    name: str
    bytes: float  # held at once, what lives longer included
    seconds: float
    passes: float = 0.0  # over the store
    note: str = ""
    compares: bool = True  # candidates need it to be compared, and not a model alone


@dataclass(frozen=True)
class Estimate:
    """What a solver takes for families of candidates."""

    stages: Sequence[Stage]
    kept: str = "nothing"  # where rows are kept
    row_bytes: float = 0.0  # of all rows that are kept
    held_bytes: float = 0.0  # of rows that stay in memory for the validation
    seconds_iteration: float = 0.0  # of an iterative solver

    @classmethod
    def joined(cls, found: Sequence[Estimate]) -> Estimate:
        """Of problems that are solved one after the other: what they hold at most, and take together."""
        names = dict.fromkeys(stage.name for one in found for stage in one.stages)
        stages = []
        for name in names:
            own = [stage for one in found for stage in one.stages if stage.name == name]
            seconds, passes = sum(stage.seconds for stage in own), sum(stage.passes for stage in own)
            stages.append(replace(max(own, key=lambda stage: stage.bytes), seconds=seconds, passes=passes))
        most = max(found, key=lambda one: one.row_bytes)
        held, iteration = max(one.held_bytes for one in found), max(one.seconds_iteration for one in found)
        return cls(stages, most.kept, most.row_bytes, held, iteration)


@dataclass(frozen=True)
class Job:
    """Sizes of a fit with one mixing of species, on the rank that has most to do."""

    rates: Rates
    execution: regression.Execution
    ranks: int
    energies: int
    directions: int
    structures: int
    n_species: int
    dim: int
    blocks: Sequence[int]  # of K_ZZ
    rank_part: float  # of the columns that whitening leaves
    tried: int  # candidates of this mixing
    ridges: tuple[float, ...]
    n_weights: int  # combinations of weights
    n_ratios: int  # of the weights of kinds beside energies
    folds: int
    work: float  # bytes: landmarks, and the block of rows at hand with what is made of it
    block_rows: int  # most rows of a block
    alpha: float | None = None  # of the mixing, where rows are linear in it

    @property
    def rows(self) -> int:
        return self.energies + self.directions

    @property
    def columns(self) -> int:
        """After whitening."""
        return max(1, round(self.rank_part * sum(self.blocks)))

    @property
    def solutions(self) -> int:
        """Columns that iterations share."""
        return len(self.ridges) * (1 + self.folds)

    @property
    def square(self) -> float:
        """Bytes of a matrix of the size of the whitened Gram matrix."""
        return float(self.columns) ** 2 * DOUBLE

    @property
    def whitening(self) -> float:
        """Bytes of the whitening."""
        return self.rank_part * float(sum(m * m for m in self.blocks)) * DOUBLE

    @property
    def own_blocks(self) -> Sequence[int]:
        """Blocks of K_ZZ of the rank with most of them."""
        dealt = (self.blocks[r :: self.ranks] for r in range(min(self.ranks, len(self.blocks))))
        return max(dealt, key=lambda own: sum(m**3 for m in own))

    @property
    def make(self) -> float:
        """Seconds of making all rows of a rank."""
        return self.energies * self.rates.kernel + self.directions * self.rates.derivative

    @property
    def whiten(self) -> float:
        """Seconds of whitening them."""
        return self.rank_part * self.rows * 2.0 * sum(m * m for m in self.blocks) * self.rates.flop
