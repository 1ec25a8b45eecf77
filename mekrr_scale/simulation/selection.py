"""Which structures of an unlabelled set to compute next.

Greedy: take the structure whose energy per atom the model is least sure of, condition the posterior
on it as if it were labelled, and repeat. That is a pivoted Cholesky factorisation of the posterior
covariance (D-optimal design): near copies of a chosen structure lose their variance with it, so
the choice is diverse by itself. One set kernel column per choice is all it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, Landmarks
from mekrr_scale.errors import ConfigError, ModelError, require_known
from mekrr_scale.figures import Shown, TextTable, choice_axes, grid_axes, spread_axes
from mekrr_scale.models import Model, Potential, Variances, as_potential
from mekrr_scale.progress import Progress, Silent, shown_progress
from mekrr_scale.regression import UNITS
from mekrr_scale.simulation.choices import SelectionMethod
from mekrr_scale.simulation.pools import PoolMap
from mekrr_scale.structures import Frames, in_batches, structures_from

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BATCH_ATOMS = 2048
_NAMED = 5  # structures that are shown


@dataclass(frozen=True, repr=False)
class Selection(Shown):
    """The structures chosen, in the order of the choice."""

    indices: tuple[int, ...]
    uncertainty: Float64[Tensor, " chosen"]  # eV/atom (68 %), before anything was chosen
    remaining: Float64[Tensor, " chosen"]  # eV/atom, when its turn came
    pool: Float64[Tensor, " structures"]  # eV/atom, of all that there were to choose from
    map: PoolMap  # of theirs

    def headline(self) -> str:
        first, last = (UNITS["energy"].factor * float(self.remaining[place]) for place in (0, -1))
        return (
            f"{len(self.indices)} structures chosen; uncertainty {first:.3g} {UNITS['energy'].text} at the first, "
            f"{last:.3g} {UNITS['energy'].text} left at the last"
        )

    def tables(self) -> list[TextTable]:
        """The first of them."""
        unit = UNITS["energy"]
        columns = zip(self.indices, self.uncertainty.tolist(), self.remaining.tolist(), strict=True)
        rows = tuple(
            (str(index), f"{unit.factor * before:.3g}", f"{unit.factor * left:.3g}") for index, before, left in columns
        )
        more = f"; {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
        caption = f"{unit.text}, 68 %{more}"
        return [TextTable("", ("structure", "uncertainty", "when chosen"), rows[:_NAMED], caption, left=())]

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it; uncertainties in eV/atom."""
        return {
            "indices": list(self.indices),
            "uncertainty": self.uncertainty.tolist(),
            "remaining": self.remaining.tolist(),
            "units": {"uncertainty": "eV/atom", "remaining": "eV/atom"},
        }

    def plot(self) -> list[Axes]:
        """Maps of the structures and their atoms, the uncertainties of all, and those in the order of the choice."""
        unit = UNITS["energy"]
        before, left, pool = (unit.factor * values.numpy() for values in (self.uncertainty, self.remaining, self.pool))
        axes = grid_axes(4, 2, 5.2, 3.7)
        self.map.plot_structures(axes[0]).set_title("structures, by the mean of their atoms", fontsize=9)
        self.map.plot_atoms(axes[1]).set_title("atoms, each less the mean of its element in training", fontsize=9)
        spread_axes(pool, before, f"uncertainty, 68 % ({unit.symbol})", axes[2])
        choice_axes(before, left, f"uncertainty, 68 % ({unit.symbol})", axes[3])
        return axes


def select(
    model: Potential | Model | Path | str,
    structures: Frames,
    count: int,
    method: SelectionMethod = "greedy",
    seed: int = 0,
    progress: Progress | None = None,
    format: str | None = None,
) -> Selection:
    """Choose ``count`` of the structures.

    Args:
        model: a potential, a model, or a model's file; fitted with uncertainty.
        structures: files, or in memory.
        progress: what shows how far it is; by default a bar in terminals and notebooks.
        format: ASE's name of the files' format, where their names do not tell.
        method: ``greedy`` as above; ``variance``, the least sure ones whatever their likeness;
            ``random``, to compare with.

    Raises:
        ConfigError: more structures asked for than there are, or an unknown method.
        ModelError: the model keeps no posterior, or does not know an element.
    """
    potential = as_potential(model)
    with shown_progress(progress) as shown:
        shown.stage("features")
        batches = list(_batches(potential, structures_from(structures, format), shown))
        return choose(potential.model, batches, count, method, seed, shown)


def choose(
    model: Model,
    batches: Sequence[FeatureBatch],
    count: int,
    method: SelectionMethod = "greedy",
    seed: int = 0,
    progress: Progress | None = None,
) -> Selection:
    """The same for structures whose features are known already; they are held in memory."""
    require_known("there is no method", method, get_args(SelectionMethod))
    total = sum(batch.n_structures for batch in batches)
    if not 1 <= count <= total:
        raise ConfigError(f"{count} structures asked for, there are {total}; ask for 1 to {total}")
    if model.posterior is None:
        raise ModelError("the model cannot tell its uncertainty; fit it with folds and uncertainty = true")
    progress = progress or Silent()
    progress.stage("select", count)
    pool = Pool.of(model, batches)
    scale = model.posterior.energy.within_68
    before = pool.variance.clone()
    if method == "greedy":
        order, remaining = pool.greedy(count, progress)
    else:
        if method == "random":
            order = np.random.default_rng(seed).permutation(total)[:count].tolist()
        else:
            order = torch.argsort(before, descending=True, stable=True)[:count].tolist()
        remaining = before[order]
    unsure = scale * before.sqrt()
    return Selection(
        tuple(order), unsure[order], scale * remaining.clamp_min(0.0).sqrt(), unsure,
        PoolMap.of(model.landmarks, batches, order),
    )  # fmt: skip


@dataclass(frozen=True)
class Pool:
    """Structures to choose from; variances and covariances are raw, of energies per atom."""

    variances: Variances
    batches: Sequence[FeatureBatch]
    variance: Float64[Tensor, " structures"]
    inside: Float64[Tensor, "structures rank"]  # phi / n
    open: Float64[Tensor, "structures rank"]  # k A / n
    size: Float64[Tensor, " structures"]  # what divides a row for an energy per atom

    @classmethod
    def of(cls, model: Model, batches: Sequence[FeatureBatch]) -> Pool:
        assert model.posterior is not None
        variances = Variances(model.kernel, model.landmarks, model.posterior)
        found, inside, opened, sizes = [], [], [], []
        for batch in batches:
            model.check_species([run.z for run in batch.runs if len(run.features)])
            size = batch.n_atoms.double() / model.kernel.energy_scale(batch.n_atoms)
            rows = model.kernel.rows(batch, model.landmarks) / size[:, None]
            inside.append(variances.whitening.rows(rows))
            opened.append(rows @ model.posterior.factor)
            found.append(variances.structures(batch) / size**2)
            sizes.append(size)
        return cls(variances, batches, torch.cat(found), torch.cat(inside), torch.cat(opened), torch.cat(sizes))

    def greedy(self, count: int, progress: Progress) -> tuple[list[int], Float64[Tensor, " chosen"]]:
        left = self.variance.clone()
        columns = torch.zeros(len(left), count, dtype=torch.float64)
        order: list[int] = []
        remaining = torch.zeros(count, dtype=torch.float64)
        for k in range(count):
            masked = left.clone()
            masked[order] = -torch.inf
            best = int(masked.argmax())
            order.append(best)
            remaining[k] = left[best]
            column = self.covariance(best) - columns[:, :k] @ columns[best, :k]
            columns[:, k] = column / left[best].clamp_min(1e-300).sqrt()
            left = (left - columns[:, k].square()).clamp_min(0.0)
            progress.advance()
        return order, remaining

    def covariance(self, i: int) -> Float64[Tensor, " structures"]:
        """Raw posterior covariance of all structures with one."""
        posterior = self.variances.posterior
        landmark = self._as_landmark(i)
        kernel = self.variances.kernel
        prior = torch.cat([kernel.rows(batch, landmark).sum(1) for batch in self.batches])
        outside = prior / (self.size * self.size[i]) - self.inside @ self.inside[i]
        return posterior.energy.outside_weight * outside + self.open @ self.open[i]

    def _as_landmark(self, i: int) -> Landmarks:
        """One structure as a landmark: a set of its atoms."""
        for batch in self.batches:
            if i < batch.n_structures:
                parts = [(run.z, run.features[run.ptr[i] : run.ptr[i + 1]]) for run in batch.runs]
                parts = [(z, features) for z, features in parts if len(features)]
                species = torch.cat([torch.full((len(features),), z) for z, features in parts])
                features = torch.cat([features for _, features in parts])
                return Landmarks(features, species, torch.zeros_like(species), 1)
            i -= batch.n_structures
        raise IndexError(i)


def _batches(potential: Potential, structures: Iterable[Atoms], progress: Progress) -> Iterable[FeatureBatch]:
    for some in in_batches(structures, _BATCH_ATOMS, len):
        yield potential.batch(some)
        progress.advance(len(some))
