"""How sure a model is: the posterior variance of the Gaussian process behind it, calibrated.

    Var = K(x,x) - phi phi' + lambda phi (Phi' W Phi + lambda)^-1 phi'

with phi a row in the whitened basis. The first two terms, "outside", are what the landmarks cannot
express; without them the variance collapses far from the data. The last, "open", is what the
training rows leave open. Derivative rows take the derivative of K in both arguments.

The unit is set by calibration on structures that the model of their fold had not seen: deviations
are multiplied with the quantiles of |error| / deviation (normalised conformal intervals,
Papadopoulos, Gammerman, Vovk 2008). On real data the outside part of a structure among the
training data says nothing about its error (rank correlation 0.09 on HCOO/Cu(110), against 0.43 of
the open part; 0.36 against 0.72 on CO/Pt(111); maximum likelihood gives it no weight), so it is
weighted to be a tenth of a typical held-out variance: far away it still takes over. Where data are so few and unlike
that left-out structures are far away themselves, it counts in full.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NotRequired, TypedDict

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, Landmarks, alone, eigh, rank_correlation
from mekrr_scale.kernels import SetKernel
from mekrr_scale.models.choices import WhiteningMethod
from mekrr_scale.models.sets import PerAtom, SetCalibration
from mekrr_scale.models.whitening import Whitening, whiten

_OUTSIDE = 0.1  # part of a typical held-out variance
_NEW = 0.01  # part of the prior variance: where so much of it is outside, what is outside is what counts
_ATOMS = 4096  # whose rows are in memory at once
_ROUNDING = 64 * torch.finfo(torch.float64).eps  # of K(x,x) - phi phi', relative to K(x,x)


@dataclass(frozen=True)
class Uncertainty:
    """Calibrated half-widths of the intervals that hold 68 % of the errors; 95 % by the ratio.

    Atoms' energies have no labels to be calibrated on: they take the factor of the energies.
    """

    energy: Float64[Tensor, " structures"]  # eV
    energies: Float64[Tensor, " atoms"]  # eV, of each environment's part
    grade: Float64[Tensor, " atoms"]  # above 1: the environment is outside of the training data
    forces: Float64[Tensor, "atoms 3"] | None  # eV/angstrom
    energy_ratio_95: float  # what to multiply ``energy`` with for 95 %
    force_ratio_95: float | None
    per_atom: PerAtom | None = None  # what the interval of a set's mean error comes from


@dataclass(frozen=True)
class RawVariance:
    """The two parts of a posterior variance, in units of the prior."""

    outside: Float64[Tensor, " rows"]
    open: Float64[Tensor, " rows"]

    def total(self, outside_weight: float) -> Float64[Tensor, " rows"]:
        return outside_weight * self.outside + self.open


@dataclass(frozen=True)
class Calibration:
    """What turns raw deviations into intervals, and how far they were from the truth."""

    within_68: float  # interval half-widths that hold 68 % and 95 % of the errors,
    within_95: float  # in units of the raw deviation
    outside_weight: float  # of the outside part in the raw variance, at most 1
    count: int  # errors that this stands on
    spearman: float  # rank correlation of |error| and deviation
    gaussian_68: float  # part of the errors within 1 and 1.96 deviations, if these had been
    gaussian_95: float  # scaled to unit variance instead: 0.68 and 0.95 for Gaussian errors

    @classmethod
    def of(cls, error: Float64[Tensor, " n"], variance: RawVariance, new: float = 0.0) -> Calibration | None:
        """From held-out errors and their variances; None if there are fewer than 20.

        Args:
            new: part of the prior variance that the landmarks cannot express of a typical one.
        """
        if len(error) < 20:
            return None
        typical = float(variance.outside.median().clamp_min(1e-300))
        weight = min(1.0, max(_OUTSIDE * float(variance.open.median()) / typical, new / _NEW))
        deviation = variance.total(weight).sqrt()
        ratio = error.abs() / deviation
        scaled = ratio / ratio.square().mean().sqrt()
        rank = rank_correlation(error.abs().numpy(), deviation.numpy())
        return cls(
            within_68=_quantile(ratio, 0.68),
            within_95=_quantile(ratio, 0.95),
            outside_weight=weight,
            count=len(error),
            spearman=0.0 if math.isnan(rank) else rank,
            gaussian_68=float((scaled <= 1).double().mean()),
            gaussian_95=float((scaled <= 1.96).double().mean()),
        )


class PosteriorHeader(TypedDict):
    """What a model's file holds of a posterior, beside the factor."""

    cut: float
    whitening: WhiteningMethod
    energy: Any  # a Calibration's fields
    force: Any  # the same, or null
    thresholds: dict[str, float]
    sets: NotRequired[Any]  # a SetCalibration's fields; absent in files of 0.1.0


@dataclass(frozen=True)
class Posterior:
    """What a model keeps to tell its uncertainty.

    ``factor`` A is such that |k(x,Z) A|^2 = lambda phi (Phi' W Phi + lambda)^-1 phi'.
    """

    factor: Float64[Tensor, "columns rank"]
    cut: float  # of the whitening
    whitening: WhiteningMethod
    energy: Calibration
    force: Calibration | None
    thresholds: Mapping[int, float]  # per species: raw variance of an atom that few held-out atoms exceed
    sets: SetCalibration | None = None  # None: fitted by version 0.1.0

    def header(self) -> PosteriorHeader:
        """All but the factor, as a model's file holds it."""
        found: PosteriorHeader = {
            "cut": self.cut,
            "whitening": self.whitening,
            "energy": asdict(self.energy),
            "force": None if self.force is None else asdict(self.force),
            "thresholds": {str(z): value for z, value in self.thresholds.items()},
        }
        if self.sets is not None:
            found["sets"] = asdict(self.sets)
        return found

    @classmethod
    def of(cls, header: PosteriorHeader, factor: Float64[Tensor, "columns rank"]) -> Posterior:
        """From a model's file."""
        energy, force, sets = header["energy"], header["force"], header.get("sets")
        return cls(
            factor=factor,
            cut=header["cut"],
            whitening=header["whitening"],
            energy=Calibration(**energy),
            force=None if force is None else Calibration(**force),
            thresholds={int(z): value for z, value in header["thresholds"].items()},
            sets=None if sets is None else SetCalibration(**sets),
        )


@dataclass(frozen=True)
class Variances:
    """Raw variances of structures, atoms and directions under a kernel's prior."""

    kernel: SetKernel
    landmarks: Landmarks
    posterior: Posterior

    @classmethod
    def on(cls, kernel: SetKernel, landmarks: Landmarks, posterior: Posterior, device: str) -> Variances:
        """Evaluated on a device; results lie in the host's memory."""
        return cls(kernel, landmarks.on(device), replace(posterior, factor=posterior.factor.to(device)))

    @cached_property
    def whitening(self) -> Whitening:
        found = whiten(self.kernel.gram_blocks(self.landmarks), self.posterior.cut, self.posterior.whitening)
        return found.on(self.landmarks.features.device)

    def structures(self, batch: FeatureBatch) -> Float64[Tensor, " structures"]:
        """Of energies, or of energies per atom for ``mean``."""
        return self._raw(batch)[1].total(self.posterior.energy.outside_weight)

    def with_rows(self, batch: FeatureBatch) -> tuple[Float64[Tensor, " structures"], PerAtom]:
        """The same, and what the variance of a set's mean error comes from."""
        rows, raw = self._raw(batch)
        size = batch.n_atoms.double() / self.kernel.energy_scale(batch.n_atoms)
        found = PerAtom(rows.cpu() / size[:, None], raw.outside / size.square(), raw.open / size.square())
        return raw.total(self.posterior.energy.outside_weight), found

    def _raw(self, batch: FeatureBatch) -> tuple[Float64[Tensor, "structures columns"], RawVariance]:
        rows = self.kernel.rows(batch, self.landmarks)
        return rows, raw_variance(rows, self.kernel.diagonal(batch), self.whitening, self.posterior.factor)

    def directions(self, batch: FeatureBatch) -> Float64[Tensor, " directions"]:
        """Of derivatives along the directions that the batch has tangents of."""
        rows = self.kernel.derivative_rows(batch, self.landmarks, torch.float64)
        raw = raw_variance(rows, self.kernel.derivative_diagonal(batch), self.whitening, self.posterior.factor)
        return raw.total((self.posterior.force or self.posterior.energy).outside_weight)

    def atoms(
        self, features: Float64[Tensor, "atoms dim"], species: Int[Tensor, " atoms"]
    ) -> Float64[Tensor, " atoms"]:
        """Of the energies of environments; for ``mean`` of structures made of one environment alone."""
        chunks = zip(features.split(_ATOMS), species.split(_ATOMS), strict=True)
        return torch.cat([self.structures(alone(part, kinds)) for part, kinds in chunks])

    def grades(self, variances: Float64[Tensor, " atoms"], species: Int[Tensor, " atoms"]) -> Float64[Tensor, " atoms"]:
        """Extrapolation grades: deviations over those of the least sure held-out atoms of the species.

        Above 1 an environment is outside of what the model was fitted on; infinite for a species that the calibration
        has not met, of which nothing is known.
        """
        if not len(species):
            return torch.zeros(0, dtype=torch.float64)
        limits = torch.full((int(species.max()) + 1,), torch.nan, dtype=torch.float64)
        for z, limit in self.posterior.thresholds.items():
            if z < len(limits):
                limits[z] = max(limit, 1e-300)
        return (variances / limits[species]).sqrt().nan_to_num(nan=torch.inf, posinf=torch.inf)


def raw_variance(
    rows: Float64[Tensor, "rows columns"],
    prior: Float64[Tensor, " rows"],
    whitening: Whitening,
    factor: Float64[Tensor, "columns rank"],
) -> RawVariance:
    """K(x,x) - |k T|^2, not below its rounding error, and |k A|^2; products where the rows are, results in the host."""
    outside = prior - whitening.rows(rows).square().sum(1).cpu()
    outside = torch.maximum(outside, _ROUNDING * prior.abs())
    return RawVariance(outside, (rows @ factor).square().sum(1).cpu())


def posterior_factor(
    gram: Float64[Tensor, "rank rank"], ridge: float, whitening: Whitening
) -> Float64[Tensor, "columns rank"]:
    """A = T C with C C' = lambda (Phi' W Phi + lambda)^-1."""
    shifted = gram.clone()
    shifted.diagonal().add_(ridge)
    lower, info = torch.linalg.cholesky_ex(shifted)
    if int(info):
        s, q = torch.linalg.eigh(gram)
        return whitening.coefficients(q * (ridge / (s.clamp_min(0.0) + ridge)).sqrt())
    identity = torch.eye(len(gram), dtype=torch.float64)
    upper = torch.linalg.solve_triangular(lower.T, identity, upper=True)
    return whitening.coefficients(math.sqrt(ridge) * upper)


def mean_factor(
    grams: Iterable[tuple[Float64[Tensor, "rank rank"], float]], ridge: float, whitening: Whitening
) -> Float64[Tensor, "columns rank"]:
    """A of a weighted mean of variances: C C' = sum of share lambda (G + lambda)^-1 over (G, share)."""
    total = torch.zeros(whitening.rank, whitening.rank, dtype=torch.float64)
    for gram, share in grams:
        shifted = gram.clone()
        shifted.diagonal().add_(ridge)
        lower, info = torch.linalg.cholesky_ex(shifted)
        if int(info):
            s, q = eigh(gram)
            total += share * (q * (ridge / (s.clamp_min(0.0) + ridge))) @ q.T
        else:
            total += share * ridge * torch.cholesky_inverse(lower)
    s, q = eigh(total)
    return whitening.coefficients(q * s.clamp_min(0.0).sqrt())


def joined_variances(parts: Sequence[RawVariance]) -> RawVariance:
    """Several one after the other."""
    return RawVariance(torch.cat([part.outside for part in parts]), torch.cat([part.open for part in parts]))


def _quantile(values: Tensor, part: float) -> float:
    """The conformal quantile: the ceil((n + 1) p)-th smallest of n values."""
    place = min(math.ceil((len(values) + 1) * part), len(values)) - 1
    return float(values.sort().values[place])
