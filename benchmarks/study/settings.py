"""What the study varies: a base, one factor at a time away from it, and a few combinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from benchmarks.sets import DataSet
from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan, RowPlan, Validation
from mekrr_scale.pipeline.fitting.values import DEFAULT_CRITERION
from mekrr_scale.solvers import Direct

FEATURE_COST = 7  # of a structure's features, in directions: measured 1.5 to 2 against 0.21 to 0.28 force evaluations
RIDGES = tuple(10.0 ** (k / 2) for k in range(-28, -3))  # wider than the default grid, whose ends are under study too
_EQUIVARIANT = ("sevennet", "mace")
WEIGHTS = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class Features:
    """What decides an extraction: settings that share it share a store.

    Args:
        share: frames, as a multiple of the size's; directions are so many that the extraction costs the same.
        directions: along which forces are fitted, a structure; None for as many as the set and ``share`` say.
    """

    backbone: str = "sevennet"
    version: str | None = "7net-0"
    layer: str | None = "gate1+gate2"
    invariants: str = "scalars"
    share: float = 1.0
    directions: int | str | None = None

    def identity(self) -> dict[str, Any]:
        """Plain values that tell its features from others, apart from directions."""
        return {name: value for name, value in asdict(self).items() if name not in ("share", "directions")}

    def frames(self, size: int) -> int:
        return round(self.share * size)

    def along(self, data: DataSet) -> int | str:
        """Directions of each structure; at least one."""
        if self.directions is not None:
            return self.directions
        return max(1, round((FEATURE_COST + data.directions) / self.share - FEATURE_COST))

    def spec(self) -> BackboneSpec | None:
        """None where the package does not offer these invariants."""
        given: dict[str, Any] = {"layer": self.layer, "version": self.version}
        if "invariants" in {field.name for field in fields(BackboneSpec)} and self.backbone in _EQUIVARIANT:
            given["invariants"] = self.invariants  # scalars too, whatever the default is
        elif self.invariants != "scalars":
            return None
        return BackboneSpec(self.backbone, **given)


@dataclass(frozen=True)
class Setting:
    """One line of the study: features, and how they are fitted. All of it is in its key, whatever the defaults are."""

    features: Features = Features()
    standardize: str = "centre-per-species"
    kernel: str = "gaussian"
    length: str = "8x"  # candidates, behind one another
    alpha: float | str = 1.0  # or candidates
    baseline: str = "composition"
    landmarks: str = "displaced"
    count: int = 1000
    balance: str = "sqrt"
    weight: tuple[float, ...] = (1e-2,)  # of force rows: candidates
    criterion: str = "default"  # or weights of energies and forces

    def plan(self, atoms: int | None = None) -> FitPlan:
        """What to fit; of atoms that are only so many, landmarks are taken no oftener than each."""
        count = self.count if atoms is None or self.landmarks == "displaced" else min(self.count, atoms)
        chosen = {} if self.criterion == "default" else {"criterion": self.criterion}
        return FitPlan(
            kernel=KernelPlan(
                name=self.kernel, length_scales=self.length, alphas=self.alpha, standardize=self.standardize
            ),
            landmarks=LandmarkPlan(method=self.landmarks, count=count, balance=self.balance),  # type: ignore[arg-type]
            baseline=self.baseline,
            rows=RowPlan(weights={"force": self.weight}),
            solver=Direct(ridges=RIDGES),
            validation=Validation(uncertainty=False, **chosen),
        )

    def identity(self) -> dict[str, Any]:
        """Plain values, in which a default that may change stands as what it is now."""
        found = asdict(self)
        if self.criterion == "default":
            found["criterion"] = sorted((name, weight) for name, weight in DEFAULT_CRITERION.items())
        return {**found, "ridges": [min(RIDGES), max(RIDGES), len(RIDGES)]}


BASE = Setting()


def varied(**changes: Any) -> Setting:
    """The base with other features or another fit."""
    of_features = {field.name for field in fields(Features)}
    features = replace(BASE.features, **{name: value for name, value in changes.items() if name in of_features})
    fit = {name: value for name, value in changes.items() if name not in of_features}
    return replace(BASE, features=features, **fit)


_LARGE = {"version": "7net-l3i5"}
_CHGNET = {"backbone": "chgnet", "version": None, "layer": "conv3"}

# what the package tries by itself
_DEFAULTS: dict[str, Any] = {"baseline": "backbone,composition", "length": "4x,16x", "weight": WEIGHTS}

# What a fit alone can vary: no extraction of its own.
FITS: dict[str, Setting] = {
    "base": BASE,
    "scale-per-species": varied(standardize="scale-per-species"),
    "centre": varied(standardize="centre"),
    "scale": varied(standardize="scale"),
    "unscaled": varied(standardize="none"),
    "l = 2x": varied(length="2x"),
    "l = 4x": varied(length="4x"),
    "l = 16x": varied(length="16x"),
    "l = 32x": varied(length="32x"),
    "l of 2x to 32x by CV": varied(length="2x,4x,8x,16x,32x"),
    "l of 4x and 16x by CV": varied(length="4x,16x"),
    "l of 4x, 8x, 16x by CV": varied(length="4x,8x,16x"),
    "l of 4x, 8x, 16x and scaling by CV": varied(
        length="4x,8x,16x", standardize="centre-per-species,scale-per-species"
    ),
    "defaults": varied(**_DEFAULTS),
    "defaults and alpha by CV": varied(**_DEFAULTS, alpha="0.5,1"),
    "matern52": varied(kernel="matern52"),
    "alpha 0": varied(alpha=0.0),
    "alpha 0.5": varied(alpha=0.5),
    "baseline backbone": varied(baseline="backbone"),
    "baseline by CV": varied(baseline="backbone,composition"),
    "uniform": varied(landmarks="uniform"),
    "farthest": varied(landmarks="farthest"),
    "leverage": varied(landmarks="leverage"),
    "equal landmarks of elements": varied(balance="equal"),
    "M = 500": varied(count=500),
    "M = 2000": varied(count=2000),
    "w_F = 1e-4": varied(weight=(1e-4,)),
    "w_F = 1e-3": varied(weight=(1e-3,)),
    "w_F = 1e-1": varied(weight=(1e-1,)),
    "w_F by CV": varied(weight=WEIGHTS),
    "w_F by CV, energies alone": varied(weight=WEIGHTS, criterion="1,0,0"),
    "w_F by CV, forces alone": varied(weight=WEIGHTS, criterion="0,1,0"),
    "w_F by CV, 1 : 1e-3": varied(weight=WEIGHTS, criterion="1,1e-3,0"),
    "w_F by CV, 1 : 1e-2": varied(weight=WEIGHTS, criterion="1,1e-2,0"),
    "0.1.0's": varied(
        standardize="scale-per-species", length="2x,4x", landmarks="uniform", weight=WEIGHTS, criterion="1,1e-4,0"
    ),
}

# What needs features of its own, in the order of use: a run that is ended has the more important ones.
FEATURES: dict[str, Setting] = {
    "7net-l3i5": varied(**_LARGE),
    "7net-l3i5, scale-per-species": varied(**_LARGE, standardize="scale-per-species"),
    "7net-l3i5, l = 4x": varied(**_LARGE, length="4x"),
    "7net-l3i5, l = 16x": varied(**_LARGE, length="16x"),
    "7net-l3i5, M = 2000": varied(**_LARGE, count=2000),
    "chgnet": varied(**_CHGNET),
    "chgnet, scale-per-species": varied(**_CHGNET, standardize="scale-per-species"),
    "chgnet, l = 4x": varied(**_CHGNET, length="4x"),
    "chgnet, baseline backbone": varied(**_CHGNET, baseline="backbone"),
    "norms": varied(invariants="norms"),
    "norms, M = 2000": varied(invariants="norms", count=2000),
    "products": varied(invariants="products"),
    "products, M = 2000": varied(invariants="products", count=2000),
    "products, l = 4x": varied(invariants="products", length="4x"),
    "products, l = 16x": varied(invariants="products", length="16x"),
    "products, scale-per-species": varied(invariants="products", standardize="scale-per-species"),
    "products, alpha 0.5": varied(invariants="products", alpha=0.5),
    "products, defaults": varied(**_DEFAULTS, invariants="products"),
    "products, defaults and alpha by CV": varied(**_DEFAULTS, invariants="products", alpha="0.5,1"),
    "7net-l3i5, norms": varied(**_LARGE, invariants="norms"),
    "7net-l3i5, norms, scale-per-species": varied(**_LARGE, invariants="norms", standardize="scale-per-species"),
    "7net-l3i5, norms, baseline backbone": varied(**_LARGE, invariants="norms", baseline="backbone"),
    "7net-l3i5, norms, l = 4x": varied(**_LARGE, invariants="norms", length="4x"),
    "7net-l3i5, norms, l = 16x": varied(**_LARGE, invariants="norms", length="16x"),
    "7net-l3i5, norms, M = 2000": varied(**_LARGE, invariants="norms", count=2000),
    "7net-l3i5, products": varied(**_LARGE, invariants="products"),
    "7net-l3i5, products, M = 2000": varied(**_LARGE, invariants="products", count=2000),
    "7net-l3i5, products, l = 16x": varied(**_LARGE, invariants="products", length="16x"),
    "7net-l3i5, products, l = 4x": varied(**_LARGE, invariants="products", length="4x"),
    "7net-l3i5, products, scale-per-species": varied(**_LARGE, invariants="products", standardize="scale-per-species"),
    "7net-l3i5, products, alpha 0.5": varied(**_LARGE, invariants="products", alpha=0.5),
    "7net-l3i5, products, baseline by CV": varied(**_LARGE, invariants="products", baseline="backbone,composition"),
    "7net-l3i5, products, defaults": varied(**_LARGE, **_DEFAULTS, invariants="products"),
    "chgnet, defaults": varied(**_CHGNET, **_DEFAULTS),
    "chgnet, defaults and alpha by CV": varied(**_CHGNET, **_DEFAULTS, alpha="0.5,1"),
    "7net-l3i5, products, defaults and alpha by CV": varied(
        **_LARGE, **_DEFAULTS, invariants="products", alpha="0.5,1"
    ),
    "half the frames, equal cost": varied(share=0.5),
    "twice the frames, equal cost": varied(share=2.0),
    "three times the frames, equal cost": varied(share=3.0),
    "4 directions": varied(directions=4),
    "32 directions": varied(directions=32),
    "gate1+gate2+gate3": varied(layer="gate1+gate2+gate3"),
    "chgnet conv1+conv2+conv3": varied(backbone="chgnet", version=None, layer="conv1+conv2+conv3"),
    "chgnet conv3+bond3+angle3": varied(backbone="chgnet", version=None, layer="conv3+bond3+angle3"),
}

SETTINGS: dict[str, Setting] = {**FITS, **FEATURES}

SIZES = {"small": 25, "large": 100}

# Features that are tried on the large size too: extraction is what the study costs.
LARGE = (
    *FITS, "7net-l3i5", "7net-l3i5, M = 2000", "7net-l3i5, norms", "7net-l3i5, norms, M = 2000",
    "7net-l3i5, norms, baseline backbone", "7net-l3i5, products", "7net-l3i5, products, M = 2000",
    "7net-l3i5, products, baseline by CV", "chgnet", "half the frames, equal cost", "4 directions",
)  # fmt: skip


def of_size(settings: Mapping[str, Setting], size: int) -> dict[str, Setting]:
    """Those that are tried with so many frames."""
    return {name: setting for name, setting in settings.items() if size <= SIZES["small"] or name in LARGE}


def chosen(names: Sequence[str]) -> dict[str, Setting]:
    """Settings by name, in the study's order; all without names.

    Raises:
        ValueError: there is no such setting.
    """
    unknown = [name for name in names if name not in SETTINGS]
    if unknown:
        raise ValueError(f"there is no setting {unknown[0]!r}; possible: {'; '.join(SETTINGS)}")
    return {name: setting for name, setting in SETTINGS.items() if not names or name in names}
