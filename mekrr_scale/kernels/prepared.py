"""Landmarks as products with them need them, and the sums of atom kernels that come out of the products."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from mekrr_scale.arrays import Landmarks, SpeciesRun, bounds
from mekrr_scale.errors import ModelError
from mekrr_scale.kernels import fused
from mekrr_scale.kernels.atom import AtomKernel
from mekrr_scale.kernels.gaussian import Gaussian
from mekrr_scale.kernels.sums import buffer, map_tiles, product, segment_sums
from mekrr_scale.kernels.transforms import Transform

Columns = tuple[int, int]  # landmark atoms [a, b)

KEPT_ELEMENTS = 2**20  # numbers of slopes that a thread keeps: 8 MB of float64


@dataclass(frozen=True)
class Prepared:
    """Landmark atoms, transformed, shifted and augmented in one precision."""

    atom: AtomKernel
    transform: Transform
    features: Float[Tensor, "atoms dim"]
    right: Float[Tensor, "augmented atoms"]
    shift: Float64[Tensor, " dim"]  # one common vector taken off every transformed feature
    bounds: Mapping[int, Columns]  # columns of each species

    @classmethod
    def of(
        cls,
        atom: AtomKernel,
        transform: Transform,
        landmarks: Landmarks,
        dtype: torch.dtype,
    ) -> Prepared:
        present, counts = landmarks.species.unique_consecutive(return_counts=True)
        ends = counts.cumsum(0).tolist()
        edges = {z: (end - n, end) for z, n, end in zip(present.tolist(), counts.tolist(), ends, strict=True)}
        transformed = torch.cat(
            [transform.apply(z, landmarks.features[a:b], torch.float64) for z, (a, b) in edges.items()]
        )
        shift = transformed.mean(0) if atom.stationary else torch.zeros_like(transformed[0])
        features = transformed.sub_(shift).to(dtype)
        return cls(atom, transform, features, atom.right(features).T.contiguous(), shift, edges)

    def shifted(self, z: int, features: Float[Tensor, "atoms dim"], tile: bool = False) -> Float[Tensor, "atoms dim"]:
        """Transformed features less the common shift, taken off in float64.

        Args:
            tile: into a buffer of the thread, valid until the next tile.

        Raises:
            ModelError: features of another length than the landmarks'.
        """
        if features.shape[1] != len(self.shift):
            raise ModelError(f"features have {features.shape[1]} components, the landmarks {len(self.shift)}")
        origin, scale = self._origin(z)
        into = buffer("centred", len(features), len(self.shift), self.shift) if tile else None
        centred = torch.sub(features.to(self.shift.device), origin, out=into).div_(scale)  # in float64
        if not tile or centred.dtype == self.features.dtype:
            return centred.to(self.features.dtype)
        return buffer("shifted", len(features), len(self.shift), self.features).copy_(centred)

    @cached_property
    def _origins(self) -> dict[int, tuple[Float64[Tensor, " dim"], Float64[Tensor, " dim"]]]:
        return {}

    def _origin(self, z: int) -> tuple[Float64[Tensor, " dim"], Float64[Tensor, " dim"]]:
        """What is taken off a species' features and what they are divided by; brought to the device once."""
        place = self.transform.place(z)
        if place not in self._origins:
            mean, scale = (part[place].to(self.shift.device) for part in (self.transform.mean, self.transform.scale))
            self._origins[place] = mean + self.shift * scale, scale
        return self._origins[place]

    def sums(self, run: SpeciesRun, columns: Columns) -> Float64[Tensor, "structures columns"]:
        """sum_a k(h_a, z_l) over the atoms of one species."""
        right = self.right[:, columns[0] : columns[1]]
        count = right.shape[1]

        def arguments(a: int, b: int, c: int, d: int) -> Tensor:
            left = buffer("left", b - a, len(right), right)
            if c == 0:  # what follows are other columns of the same rows
                self.atom.left(self.shifted(run.z, run.features[a:b], tile=True), left)
            return product(left, right[:, c:d])

        def tile(a: int, b: int, c: int, d: int) -> Tensor:
            return self.atom.profile(arguments(a, b, c, d))

        def summed(a: int, b: int, ends: Tensor) -> Tensor:
            return fused.gaussian_sums(arguments(a, b, 0, count), ends)

        at_once = summed if fused.serves(right.device) and isinstance(self.atom, Gaussian) else None
        return segment_sums(owners(run), len(run.ptr) - 1, count, tile, right.device, at_once)

    def derivative_sums(
        self, run: SpeciesRun, direction_ptr: Int64[Tensor, " bounds"], columns: Columns
    ) -> Float64[Tensor, "directions columns"]:
        """sum_a <grad k(h_a, z_l), hdot_a> over the atoms of one species."""
        assert run.tangents is not None
        tangents = run.tangents.features
        right = self.right[:, columns[0] : columns[1]]
        atom, direction = _tangent_places(run, direction_ptr)
        there = atom.to(right.device)
        scale = self._origin(run.z)[1].to(self.features.dtype)
        count = right.shape[1]
        kept = _Kept()

        def slopes(first: int, last: int, c: int, d: int) -> tuple[Tensor, Tensor]:
            x = self.shifted(run.z, run.features[first:last])
            return x, self.atom.slope(self.atom.left(x) @ right[:, c:d])

        def made(a: int, b: int, c: int, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            here = atom[a:b]
            first, last = int(here.min()), int(here.max()) + 1
            place = there[a:b] - first
            x, slope = kept.get((first, last, c, d), slopes)  # along other directions the atoms are the same
            left = buffer("left", b - a, len(right), right)
            if c == 0:
                at = torch.index_select(x, 0, place, out=buffer("shifted", b - a, x.shape[1], x))
                dx = tangents[a:b].to(x.device, x.dtype) / scale
                self.atom.left_tangent_(at, dx, left)
            return product(left, right[:, c:d]), slope, place, here - first

        def tile(a: int, b: int, c: int, d: int) -> Tensor:
            return _times(*made(a, b, c, d))

        def summed(a: int, b: int, ends: Tensor) -> Tensor:
            slopes_along, slope, place, _ = made(a, b, 0, count)
            return fused.product_sums(slopes_along, slope, place, ends)

        at_once = summed if fused.serves(right.device) else None
        return segment_sums(direction, int(direction_ptr[-1]), count, tile, right.device, at_once)

    def values(
        self,
        run: SpeciesRun,
        columns: Columns,
        vectors: Float64[Tensor, "channels columns"],
        weights: Float64[Tensor, "atoms channels"],
        gradient: bool,
    ) -> tuple[Float64[Tensor, " atoms"], Float64[Tensor, "atoms dim"] | None]:
        """sum_c w_ac sum_l v_cl k(h_a, z_l) of each atom, and its derivative by the atom's stored feature."""
        features = self.shifted(run.z, run.features)
        right = self.right[:, columns[0] : columns[1]]
        vectors, weights = vectors.to(right.device), weights.to(right.device)
        values = torch.zeros(len(features), dtype=torch.float64, device=right.device)
        gradients = torch.zeros_like(features) if gradient else None
        inverse_scale = 1.0 / self.transform.scale[self.transform.place(run.z)].to(right.device)

        def work(a: int, b: int) -> None:
            x = features[a:b]
            t = self.atom.left(x) @ right
            if gradients is not None:
                by_t = self.atom.slope(t) * (weights[a:b] @ vectors)
                gradients[a:b] = self.atom.left_pullback(x, by_t @ right.T) * inverse_scale
            values[a:b] = ((self.atom.profile(t) @ vectors.T) * weights[a:b]).sum(1)

        map_tiles(len(features), work, right)
        return values, gradients


class _Kept(threading.local):
    """What a thread has made of the atoms that it has just met."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, int, int, int], tuple[Tensor, Tensor]] = {}
        self.elements = 0

    def get(
        self,
        key: tuple[int, int, int, int],
        make: Callable[[int, int, int, int], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        if key not in self.found:
            if self.elements > KEPT_ELEMENTS:
                self.found.clear()
                self.elements = 0
            self.found[key] = make(*key)
            self.elements += self.found[key][1].numel()
        return self.found[key]


def _times(
    made: Float[Tensor, "rows columns"],
    slope: Float[Tensor, "atoms columns"],
    place: Int64[Tensor, " rows"],
    here: Int64[Tensor, " rows"],
) -> Float[Tensor, "rows columns"]:
    """Each row times that of its atom, in place; without a copy where the atoms come in order, again and again."""
    atoms = len(slope)
    if len(made) % atoms == 0 and torch.equal(here, torch.arange(atoms).repeat(len(made) // atoms)):
        made.view(-1, atoms, made.shape[1]).mul_(slope)
        return made
    return made.mul_(slope[place])


def owners(run: SpeciesRun) -> Int64[Tensor, " atoms"]:
    """The structure of each atom of a run."""
    return torch.repeat_interleave(torch.arange(len(run.ptr) - 1), run.ptr.diff())


def _tangent_places(
    run: SpeciesRun, direction_ptr: Int64[Tensor, " bounds"]
) -> tuple[Int64[Tensor, " tangent_rows"], Int64[Tensor, " tangent_rows"]]:
    """The atom of the run and the direction of the batch that each tangent row belongs to."""
    atoms, directions = run.ptr.diff(), direction_ptr.diff()
    rows = atoms * directions
    structure = torch.repeat_interleave(torch.arange(len(rows)), rows)
    within = torch.arange(int(rows.sum())) - bounds(rows)[:-1][structure]
    width = atoms[structure].clamp_min(1)
    return run.ptr[:-1][structure] + within % width, direction_ptr[:-1][structure] + within // width
