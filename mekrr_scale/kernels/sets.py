"""The set kernel between structures: sums or means of atom kernels with species mixing.

    sum:   K(x,x') = sum_ab B[z_a,z_b] k(h_a,h_b)
    mean:  K(x,x') = (1-alpha)/(n n') sum_ab k + alpha sum_s 1/(n_s n'_s) sum_{a,b in s} k

The second is MEKRR's (arXiv 2306.01589, eq. 9-11, without its 1/S, as in the authors' code).
Both are sums of channels (``channels``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, Landmarks, SpeciesRun
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels.atom import AtomKernel
from mekrr_scale.kernels.channels import Channel, Channels
from mekrr_scale.kernels.choices import Reduce
from mekrr_scale.kernels.mixing import SpeciesMixing
from mekrr_scale.kernels.prepared import Prepared, owners
from mekrr_scale.kernels.sums import TILE_COLUMNS, add_columns
from mekrr_scale.kernels.transforms import Transform
from mekrr_scale.kernels.variances import PriorVariances

_SET_COLUMNS = 2 * TILE_COLUMNS  # atoms of landmark sets at once


@dataclass(frozen=True)
class SetKernel:
    """A set kernel: atom kernel, mixing of species, reduction, and transform of the features.

    Raises:
        ConfigError: a general mixing matrix with ``mean``, which has no such form.
    """

    atom: AtomKernel
    mixing: SpeciesMixing
    reduce: Reduce
    transform: Transform

    def __post_init__(self) -> None:
        if self.reduce not in ("sum", "mean"):
            raise ConfigError(f"reduce is {self.reduce!r}; it is 'sum' or 'mean'")
        if self.reduce == "mean" and self.mixing.matrix:
            raise ConfigError("a species mixing matrix needs reduce='sum'; 'mean' takes alpha only")

    @cached_property
    def _channels(self) -> Channels:
        return Channels(self.reduce, self.mixing)

    @cached_property
    def _variances(self) -> PriorVariances:
        return PriorVariances(self.atom, self._channels, self.transform)

    def label_scale(self, n_atoms: Int64[Tensor, " structures"]) -> Float64[Tensor, " structures"]:
        """What energies and their derivatives are multiplied with to be what rows explain: 1, or 1/n for ``mean``."""
        return 1.0 / self.energy_scale(n_atoms)

    def energy_scale(self, n_atoms: Int64[Tensor, " structures"]) -> Float64[Tensor, " structures"]:
        """What rows times coefficients are multiplied with to be energies: 1, or n for ``mean``."""
        return n_atoms.double() if self.reduce == "mean" else torch.ones(len(n_atoms), dtype=torch.float64)

    @property
    def linear_in_alpha(self) -> bool:
        """Whether rows are (1 - alpha) times those for alpha = 0 plus alpha times those for alpha = 1."""
        return self.reduce == "sum" and not self.mixing.matrix

    def n_columns(self, landmarks: Landmarks) -> int:
        """Columns of the design matrix.

        Singletons under ``mean`` with 0 < alpha < 1 have two each, since a single atom is not
        the sum of its pooled and its own-species part.
        """
        return landmarks.n_sets * (len(self._channels.names) if landmarks.singletons else 1)

    def separate(self, landmarks: Landmarks) -> bool:
        """Whether K_ZZ is block diagonal by species."""
        return self.mixing.separate and landmarks.singletons

    def rows(
        self, batch: FeatureBatch | Landmarks, landmarks: Landmarks, dtype: torch.dtype = torch.float64
    ) -> Float64[Tensor, "structures columns"]:
        """K(x, Z_m) for every structure of a batch; elements in ``dtype``, sums in float64."""
        parts = self._by_column_group(batch, landmarks, self._channels.names, dtype)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def derivative_rows(
        self, batch: FeatureBatch, landmarks: Landmarks, dtype: torch.dtype = torch.float32
    ) -> Float64[Tensor, "directions columns"]:
        """Derivatives of ``rows`` along the directions whose tangents the batch holds.

        Raises:
            ConfigError: the batch holds no tangents.
        """
        labels = batch.directions
        if labels is None or any(run.tangents is None for run in batch.runs):
            raise ConfigError("the store holds no tangents; extract again with --derivatives")
        prepared = self.prepare(landmarks, dtype)
        channels = self._channels.names
        structure = torch.repeat_interleave(torch.arange(batch.n_structures), labels.ptr.diff())
        parts = self._empty(len(structure), landmarks, channels)
        scales = {channel: self._set_weights(channel, landmarks) for channel in channels}
        for run in batch.runs:
            for columns in self._column_parts(run.z, landmarks, prepared):
                sums = prepared.derivative_sums(run, labels.ptr, columns)
                for place, channel in enumerate(channels):
                    weight = self._channels.weight(channel, run, batch.n_atoms)[structure].to(sums.device)
                    self._add(parts, place, sums * weight[:, None], channel, run.z, landmarks, columns, scales[channel])
        return torch.cat(parts, 1)

    def diagonal(
        self, batch: FeatureBatch, chosen: Bool[Tensor, " structures"] | None = None
    ) -> Float64[Tensor, " structures"]:
        """K(x, x) of every structure: the prior variance of its row; zero for those not chosen."""
        return self._variances.structures(batch, chosen)

    def derivative_diagonal(
        self, batch: FeatureBatch, chosen: Bool[Tensor, " structures"] | None = None, chunk: int = 64
    ) -> Float64[Tensor, " directions"]:
        """The second derivative of K(x, x'), along a direction in either argument, at x = x'.

        The prior variance of a derivative row; zero in structures that are not chosen. With t
        the argument of the atom kernel and u, v its derivatives in x and x':
        d2k = k''(t) u v + k'(t) d2t.

        Raises:
            ConfigError: the batch holds no tangents.
        """
        return self._variances.directions(batch, chosen, chunk)

    def gram_blocks(self, landmarks: Landmarks) -> list[Float64[Tensor, "_ _"]]:
        """The diagonal blocks of K_ZZ, in float64 and in the order of the columns.

        Singletons of species that never meet have a block for each species; so has the
        own-species channel of ``mean``.
        """
        return [make() for make in self.gram_block_makers(landmarks)]

    def gram_block_makers(self, landmarks: Landmarks) -> list[Callable[[], Float64[Tensor, "_ _"]]]:
        """What makes each of ``gram_blocks``: they need not be in memory, or on a rank, together."""
        if not landmarks.singletons:
            return [partial(_symmetric, partial(self.rows, landmarks, landmarks))]
        prepared = self.prepare(landmarks, torch.float64)
        makers: list[Callable[[], Tensor]] = []
        for channel in self._channels.names:
            apart = channel == "own" or self.mixing.separate
            for a, b in prepared.bounds.values() if apart else [(0, landmarks.n_sets)]:
                makers.append(partial(_symmetric, partial(self._gram_block, landmarks, prepared, channel, a, b)))
        return makers

    def _gram_block(
        self, landmarks: Landmarks, prepared: Prepared, channel: Channel, a: int, b: int
    ) -> Float64[Tensor, "_ _"]:
        species, counts = landmarks.species[a:b].unique_consecutive(return_counts=True)
        block = self.atom.profile(self.atom.left(prepared.features[a:b]) @ prepared.right[:, a:b])
        table = self._channels.table(channel, species.tolist(), species.tolist())
        if len(species) == 1:
            return block.mul_(float(table))
        for rows, row in zip(block.split(counts.tolist()), table, strict=True):
            rows.mul_(row.repeat_interleave(counts).to(rows.device))
        return block

    def gram(self, landmarks: Landmarks) -> Float64[Tensor, "columns columns"]:
        """K_ZZ in float64."""
        gram: Tensor = torch.block_diag(*self.gram_blocks(landmarks))
        return gram

    def atom_coefficients(
        self, landmarks: Landmarks, coefficients: Float64[Tensor, " columns"]
    ) -> Float64[Tensor, "channels atoms"]:
        """Coefficients of the landmark atoms, channel by channel, from those of the columns."""
        channels = self._channels.names
        rows = []
        for place, channel in enumerate(channels):
            offset = place * landmarks.n_sets if landmarks.singletons else 0
            weights = self._set_weights(channel, landmarks).to(coefficients.device)
            rows.append(coefficients[offset + landmarks.owner] * weights)
        return torch.stack(rows)

    def evaluate(
        self,
        runs: Sequence[SpeciesRun],
        n_atoms: Int64[Tensor, " structures"],
        landmarks: Landmarks,
        coefficients: Float64[Tensor, "channels atoms"],
        gradient: bool = False,
        prepared: Prepared | None = None,
    ) -> list[tuple[Float64[Tensor, " _"], Float64[Tensor, "_ dim"] | None]]:
        """Contribution of every atom to its structure's row times the coefficients.

        Args:
            n_atoms: of each structure that the runs hold atoms of.
            coefficients: from ``atom_coefficients``.
            gradient: also the derivative of each contribution by the atom's own (stored) feature.
            prepared: from ``prepare``, where the same landmarks are used again and again.

        Returns:
            One pair for each run.
        """
        prepared = prepared or self.prepare(landmarks, torch.float64)
        given = coefficients.cpu()  # tables of species lie in the host's memory
        results = []
        for run in runs:
            columns = self._columns(run.z, prepared)
            a, b = columns
            z_columns = landmarks.species[a:b].unique().tolist()
            widths = torch.tensor([int((landmarks.species[a:b] == z).sum()) for z in z_columns], dtype=torch.int64)
            weights = torch.zeros(len(run.features), len(self._channels.names), dtype=torch.float64)
            vectors = torch.zeros(len(self._channels.names), b - a, dtype=torch.float64)
            for place, channel in enumerate(self._channels.names):
                table = self._channels.table(channel, [run.z], z_columns)[0].repeat_interleave(widths)
                vectors[place] = given[place, a:b] * table
                weights[:, place] = self._channels.weight(channel, run, n_atoms)[owners(run)]
            results.append(prepared.values(run, columns, vectors, weights, gradient))
        return results

    def _set_weights(self, channel: Channel, landmarks: Landmarks) -> Float64[Tensor, " landmark_atoms"]:
        """The weight of each landmark atom in its set."""
        sizes = torch.bincount(landmarks.owner, minlength=landmarks.n_sets)
        return torch.cat([self._channels.weight(channel, run, sizes)[owners(run)] for run in landmarks.runs()])

    def _by_column_group(
        self, batch: FeatureBatch | Landmarks, landmarks: Landmarks, channels: tuple[Channel, ...], dtype: torch.dtype
    ) -> list[Float64[Tensor, "structures columns"]]:
        prepared = self.prepare(landmarks, dtype)
        runs = batch.runs() if isinstance(batch, Landmarks) else batch.runs
        sizes = torch.bincount(batch.owner, minlength=batch.n_sets) if isinstance(batch, Landmarks) else batch.n_atoms
        parts = self._empty(len(sizes), landmarks, channels)
        scales = {channel: self._set_weights(channel, landmarks) for channel in channels}
        for run in runs:
            for columns in self._column_parts(run.z, landmarks, prepared):
                sums = prepared.sums(run, columns)
                for place, channel in enumerate(channels):
                    weight = self._channels.weight(channel, run, sizes).to(sums.device)
                    self._add(parts, place, sums * weight[:, None], channel, run.z, landmarks, columns, scales[channel])
        return parts

    def _empty(self, rows: int, landmarks: Landmarks, channels: tuple[Channel, ...]) -> list[Tensor]:
        groups = len(channels) if landmarks.singletons else 1
        device = landmarks.features.device
        return [torch.zeros(rows, landmarks.n_sets, dtype=torch.float64, device=device) for _ in range(groups)]

    def _add(
        self,
        parts: list[Tensor],
        place: int,
        sums: Float64[Tensor, "rows columns"],
        channel: Channel,
        z: int,
        landmarks: Landmarks,
        columns: tuple[int, int],
        scale: Float64[Tensor, " landmark_atoms"],
    ) -> None:
        """Add the sums over one species' atoms, weighted by the channel, to the columns."""
        a, b = columns
        species = landmarks.species[a:b]
        present, counts = species.unique_consecutive(return_counts=True)
        table = self._channels.table(channel, [z], present.tolist())[0].repeat_interleave(counts)
        if landmarks.singletons:
            parts[place][:, a:b] += sums * table.to(sums.device)
            return
        add_columns(parts[0], landmarks.owner[a:b], sums * (table * scale[a:b]).to(sums.device))

    def _columns(self, z: int, prepared: Prepared) -> tuple[int, int]:
        """The landmark atoms that atoms of a species meet."""
        if self.mixing.separate:
            return prepared.bounds.get(z, (0, 0))
        return 0, prepared.right.shape[1]

    def _column_parts(self, z: int, landmarks: Landmarks, prepared: Prepared) -> list[tuple[int, int]]:
        """The same in parts: sums over sets' atoms are summed on by set before there are too many."""
        a, b = self._columns(z, prepared)
        width = max(b - a, 1) if landmarks.singletons else _SET_COLUMNS
        return [(c, min(c + width, b)) for c in range(a, b, width)]

    def prepare(self, landmarks: Landmarks, dtype: torch.dtype) -> Prepared:
        """Landmarks as products with them need them."""
        return Prepared.of(self.atom, self.transform, landmarks, dtype)

    def with_alpha(self, alpha: float) -> SetKernel:
        """The same kernel with another mixing of species."""
        return replace(self, mixing=SpeciesMixing(alpha))


def _symmetric(make: Callable[[], Float64[Tensor, "n n"]]) -> Float64[Tensor, "n n"]:
    """A matrix that rounding alone keeps from being symmetric."""
    gram = make()
    return gram.add_(gram.T.clone()).div_(2.0)
