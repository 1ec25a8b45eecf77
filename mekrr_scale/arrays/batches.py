"""Features and labels of structures, checked when they are built.

Atoms are kept species-major: all atoms of one species of a batch lie together, ordered by
structure. A sum over the atoms of a structure is then a sum over a contiguous run for each
species, and same-species kernels are ordinary matrix products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import xxhash
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from mekrr_scale.arrays.kinds import RowKind
from mekrr_scale.errors import ConfigError

N_ELEMENTS = 256  # atomic numbers are one byte
ISOLATED = -2  # in the place of a trajectory: one atom without neighbours, a reference and no example
MADE = -3  # likewise: no structure of the data but one that a fit adds


@dataclass(frozen=True)
class Tangents:
    """Derivatives of the features of one species' atoms along directions.

    The run of structure i holds the derivatives of its first direction for all its atoms of
    this species, then those of the second, and so on.
    """

    features: Float[Tensor, "tangent_rows dim"]  # 1/angstrom, or 1 for strains
    ptr: Int64[Tensor, " bounds"]  # structures + 1; structure i owns rows ptr[i] to ptr[i+1]


@dataclass(frozen=True)
class SpeciesRun:
    """The atoms of one species in consecutive structures."""

    z: int  # atomic number
    features: Float[Tensor, "atoms dim"]
    ptr: Int64[Tensor, " bounds"]  # structures + 1; structure i owns atoms ptr[i] to ptr[i+1]
    tangents: Tangents | None = None

    def __post_init__(self) -> None:
        if len(self.features) != int(self.ptr[-1]) or int(self.ptr[0]) != 0:
            raise ConfigError(
                f"species {self.z}: {len(self.features)} feature rows, but ptr runs from "
                f"{int(self.ptr[0])} to {int(self.ptr[-1])}; it must start at 0 and end at their number"
            )


@dataclass(frozen=True)
class DirectionLabels:
    """Which directions the tangents of a batch are along, and what is known about them."""

    ptr: Int64[Tensor, " bounds"]  # structures + 1; structure i owns directions ptr[i] to ptr[i+1]
    kind: Int64[Tensor, " directions"]  # RowKind.FORCE (a displacement) or RowKind.STRESS (a strain)
    label: Float64[Tensor, " directions"]  # -u.F in eV/angstrom, or V sigma:eps in eV; NaN: unknown
    prior: Float64[Tensor, " directions"]  # the same of the backbone's own potential; NaN: none


@dataclass(frozen=True)
class FeatureBatch:
    """Features and labels of consecutive structures."""

    runs: tuple[SpeciesRun, ...]  # ascending atomic numbers
    n_atoms: Int64[Tensor, " structures"]
    energy: Float64[Tensor, " structures"]  # eV; NaN where unknown
    prior: Float64[Tensor, " structures"]  # eV, of the backbone's own potential; NaN: none
    ids: Int64[Tensor, " structures"]  # 64-bit hash of each structure's content
    groups: Int64[Tensor, " structures"]  # trajectory that a structure belongs to; -1: none known, or ISOLATED
    sources: tuple[Int[Tensor, " _"], ...]  # per run: place of each atom in its structure
    directions: DirectionLabels | None = None
    importance: float = 1.0  # of its rows in the fit, beside those of other stores
    weights: Float64[Tensor, "structures kinds"] | None = None  # of each structure's rows by kind; None: all 1
    configs: Int64[Tensor, " structures"] | None = None  # configuration types (``config_hash``); None: not told

    def __post_init__(self) -> None:
        counted = self.counts([run.z for run in self.runs]).sum(1)
        if not torch.equal(counted, self.n_atoms):
            bad = int((counted != self.n_atoms).nonzero()[0])
            raise ConfigError(
                f"structure {bad} has {int(self.n_atoms[bad])} atoms but features of {int(counted[bad])}; "
                "give every atom one feature row"
            )

    @classmethod
    def from_atoms(
        cls,
        features: Float[Tensor, "atoms dim"],
        species: Int[Tensor, " atoms"],
        ptr: Int[Tensor, " bounds"],
        energy: Float[Tensor, " structures"] | None = None,
        groups: Int[Tensor, " structures"] | None = None,
    ) -> FeatureBatch:
        """Arrange features of your own, given structure by structure.

        Args:
            species: atomic number of each atom.
            ptr: structures + 1 bounds; structure i has the atoms ptr[i] to ptr[i+1].
            energy: total energies in eV.
            groups: trajectory of each structure, kept together in folds.

        Raises:
            ConfigError: lengths that do not fit together.
        """
        ptr = ptr.long()
        n_atoms = ptr.diff()
        if len(features) != len(species) or len(features) != int(ptr[-1]) or bool((n_atoms < 0).any()):
            raise ConfigError(
                f"{len(features)} feature rows, {len(species)} species and ptr up to {int(ptr[-1])}: "
                "all three must agree and ptr must ascend"
            )
        unknown = torch.full((len(n_atoms),), torch.nan, dtype=torch.float64)
        owner = torch.repeat_interleave(torch.arange(len(n_atoms)), n_atoms)
        place = torch.arange(len(features)) - ptr[:-1].repeat_interleave(n_atoms)
        runs, places = species_runs(features, species, owner, len(n_atoms))
        return cls(
            runs=runs,
            n_atoms=n_atoms,
            energy=unknown if energy is None else energy.double(),
            prior=unknown,
            ids=torch.tensor(
                [_content(features[a:b], species[a:b]) for a, b in zip(ptr, ptr[1:], strict=False)]
            ).long(),
            groups=torch.full((len(n_atoms),), -1) if groups is None else groups.long(),
            sources=tuple(place[chosen] for chosen in places),
        )

    @classmethod
    def unlabelled(
        cls,
        features: Float[Tensor, "atoms dim"],
        species: Int[Tensor, " atoms"],
        n_atoms: Int[Tensor, " structures"],
        tangents: Float[Tensor, "directions atoms dim"] | None = None,
    ) -> FeatureBatch:
        """Features alone, structure by structure.

        Args:
            tangents: derivatives along displacements, as many in every structure.
        """
        count, n_atoms = len(n_atoms), n_atoms.long()
        owner = torch.repeat_interleave(torch.arange(count), n_atoms)
        runs, places = species_runs(features, species, owner, count)
        labels = None
        if tangents is not None:
            directions, moved = len(tangents), []
            for run, place in zip(runs, places, strict=True):
                parts = [tangents[:, piece].flatten(0, 1) for piece in place.split(run.ptr.diff().tolist())]
                moved.append(SpeciesRun(run.z, run.features, run.ptr, Tangents(torch.cat(parts), directions * run.ptr)))
            runs = tuple(moved)
            unknown = torch.full((count * directions,), torch.nan, dtype=torch.float64)
            kind = torch.full((count * directions,), int(RowKind.FORCE))
            labels = DirectionLabels(bounds(torch.full((count,), directions)), kind, unknown, unknown)
        nan, none = torch.full((count,), torch.nan, dtype=torch.float64), torch.full((count,), -1)
        first = bounds(n_atoms)[:-1]
        sources = tuple(place - first[owner[place]] for place in places)
        return cls(runs, n_atoms, nan, nan, none, none, sources, labels)

    @classmethod
    def moved(
        cls,
        features: Float[Tensor, "atoms dim"],
        species: Int[Tensor, " atoms"],
        tangents: Float[Tensor, "directions atoms dim"],
        kind: RowKind,
        label: Float64[Tensor, " directions"],
    ) -> FeatureBatch:
        """A structure that is ``MADE``, with labels along directions that a prior explains in full."""
        plain = cls.unlabelled(features, species, torch.tensor([len(species)]), tangents)
        assert plain.directions is not None
        labels = replace(
            plain.directions, kind=torch.full_like(plain.directions.kind, int(kind)), label=label, prior=label
        )
        return replace(plain, directions=labels, groups=torch.tensor([MADE]))

    def take(self, chosen: Bool[Tensor, " structures"]) -> FeatureBatch:
        """Some of the structures, without their tangents."""
        runs, sources = [], []
        for run, source in zip(self.runs, self.sources, strict=True):
            inside = chosen.repeat_interleave(run.ptr.diff())
            runs.append(SpeciesRun(run.z, run.features[inside], bounds(run.ptr.diff()[chosen])))
            sources.append(source[inside])
        return FeatureBatch(
            tuple(runs), self.n_atoms[chosen], self.energy[chosen], self.prior[chosen], self.ids[chosen],
            self.groups[chosen], tuple(sources), None, self.importance,
            None if self.weights is None else self.weights[chosen],
            None if self.configs is None else self.configs[chosen],
        )  # fmt: skip

    def kept(self, chosen: Bool[Tensor, " structures"]) -> FeatureBatch:
        """Some of the structures and their species, with their tangents; the batch itself where these are all."""
        if bool(chosen.all()):
            return self
        few = self.take(chosen)
        runs, sources = [], []
        for run, own, source in zip(self.runs, few.runs, few.sources, strict=True):
            moved = run.tangents
            if moved is not None:
                rows = moved.ptr.diff()
                moved = Tangents(moved.features[chosen.repeat_interleave(rows)], bounds(rows[chosen]))
            if len(own.features):
                runs.append(replace(own, tangents=moved))
                sources.append(source)
        few = replace(few, runs=tuple(runs), sources=tuple(sources))
        if self.directions is None:
            return few
        at, count = self.directions, self.directions.ptr.diff()
        inside = chosen.repeat_interleave(count)
        labels = DirectionLabels(bounds(count[chosen]), at.kind[inside], at.label[inside], at.prior[inside])
        return replace(few, directions=labels)

    def weight(self, kind: RowKind) -> Float64[Tensor, " structures"]:
        """What the rows of a kind count for: a structure of weight 2 like two of its kind."""
        if self.weights is None:
            return torch.full((self.n_structures,), self.importance, dtype=torch.float64)
        return self.importance * self.weights[:, kind]

    @property
    def largest_weight(self) -> Float64[Tensor, " structures"]:
        """Of each structure's rows, but for elastic ones, which no structure of a store has; at 0 it is left out."""
        if self.weights is None:
            return torch.ones(self.n_structures, dtype=torch.float64)
        return self.weights[:, : RowKind.ELASTIC].amax(1)

    @property
    def with_energy(self) -> Bool[Tensor, " structures"]:
        """Which structures have an energy that counts."""
        return ~self.energy.isnan() & (self.weight(RowKind.ENERGY) > 0)

    @property
    def owner(self) -> Int64[Tensor, " directions"]:
        """The structure that each direction is of; none without tangents."""
        count = torch.zeros(0, dtype=torch.int64) if self.directions is None else self.directions.ptr.diff()
        return torch.repeat_interleave(torch.arange(len(count)), count)

    def along(self, kind: RowKind) -> Bool[Tensor, " directions"]:
        """Which directions of a kind have a label that counts."""
        labels = self.directions
        if labels is None:
            return torch.zeros(0, dtype=torch.bool)
        return (labels.kind == int(kind)) & ~labels.label.isnan() & (self.weight(kind) > 0)[self.owner]

    def weighed(self, factors: Mapping[int, Sequence[float]]) -> FeatureBatch:
        """With the weights of some configuration types multiplied.

        Args:
            factors: by ``config_hash``, one for each kind of rows.
        """
        if self.configs is None or not factors:
            return self
        found = torch.ones(self.n_structures, len(RowKind), dtype=torch.float64)
        for config, factor in factors.items():
            found[self.configs == config] = torch.tensor(factor, dtype=torch.float64)
        if bool((found == 1.0).all()):
            return self
        return replace(self, weights=found if self.weights is None else found * self.weights)

    @property
    def isolated(self) -> Bool[Tensor, " structures"]:
        """Which are atoms without neighbours."""
        return self.groups == ISOLATED

    @property
    def n_structures(self) -> int:
        return len(self.n_atoms)

    @property
    def species(self) -> tuple[int, ...]:
        return tuple(run.z for run in self.runs)

    def counts(self, species: Sequence[int]) -> Int64[Tensor, "structures species"]:
        """Number of atoms of each of the given species in each structure."""
        found = {run.z: run.ptr.diff() for run in self.runs}
        absent = torch.zeros(len(self.n_atoms), dtype=torch.int64)
        return torch.stack([found.get(z, absent) for z in species], 1) if species else absent[:, None][:, :0]


def species_runs(
    features: Float[Tensor, "atoms dim"],
    species: Int[Tensor, " atoms"],
    owner: Int[Tensor, " atoms"],
    n_structures: int,
) -> tuple[tuple[SpeciesRun, ...], tuple[Int64[Tensor, " _"], ...]]:
    """Runs of atoms given structure by structure, and where the atoms of each run came from."""
    runs, places = [], []
    for z in species.unique().tolist():
        chosen = (species == z).nonzero()[:, 0]
        counts = torch.bincount(owner[chosen], minlength=n_structures)
        runs.append(SpeciesRun(z, features[chosen], bounds(counts)))
        places.append(chosen)
    return tuple(runs), tuple(places)


def config_hash(name: str) -> int:
    """A 63-bit hash of a configuration type; 0 of none.

    >>> config_hash("")
    0
    """
    return xxhash.xxh3_64_intdigest(name.encode()) >> 1 if name else 0


def bounds(counts: Int[Tensor, " parts"]) -> Int64[Tensor, " bounds"]:
    """Cumulative bounds of parts of the given sizes.

    >>> bounds(torch.tensor([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).long()


def alone(features: Float64[Tensor, "atoms dim"], species: Int[Tensor, " atoms"]) -> FeatureBatch:
    """Every atom as a structure of its own."""
    return FeatureBatch.unlabelled(features, species, torch.ones(len(features), dtype=torch.int64))


def _content(features: Tensor, species: Tensor) -> int:
    """A 63-bit hash that does not depend on where a structure stands."""
    digest = xxhash.xxh3_64(species.to(torch.int64).numpy().tobytes())
    digest.update(features.contiguous().cpu().numpy().tobytes())
    return digest.intdigest() >> 1
