"""What a loop is to do. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, InstanceOf

from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.errors import ConfigError
from mekrr_scale.pipeline import ExtractPlan, FitPlan
from mekrr_scale.plans import Given, Numbers, listed, plan, preset
from mekrr_scale.structures import LabelKeys

_SAVED = 10  # frames of a trajectory between two restart files


def _files(value: Any) -> Any:
    return (value,) if isinstance(value, str | Path) else value


def _keys(value: Any) -> Any:
    """Where labels stand, by field."""
    return LabelKeys(**value) if isinstance(value, Mapping) else value


def _features(value: Any) -> Any:
    """An extraction by field; its backbone may be a table (``{name = "sevennet", version = "7net-0"}``)."""
    if not isinstance(value, Mapping):
        return value
    given = dict(value)
    for name, made in (("backbone", BackboneSpec), ("keys", LabelKeys)):
        if isinstance(given.get(name), Mapping):
            given[name] = made(**given[name])
    return ExtractPlan(**{"derivatives": 16, **given})


def _fit(value: Any) -> Any:
    return FitPlan(**value) if isinstance(value, Mapping) else value


def _explore(value: Any) -> Any:
    return ExplorePlan(**value) if isinstance(value, Mapping) else value


@plan
class ExplorePlan:
    """Dynamics by which each model is asked where it is unsure: every structure at every temperature.

    Raises:
        ConfigError: an option outside its range.
    """

    structures: str | Path | None = None
    """File of the structures to start from; by default the first frames."""

    starts: int = Field(default=1, ge=1)
    """How many of them, spread evenly over the file."""

    temperatures: Annotated[Given[tuple[float, ...], Numbers], listed(float)] = preset(default=(300.0, 600.0))
    """Temperatures (K), e.g. ``[300, 600, 1200]``."""

    steps: int = Field(default=2000, ge=1)
    """Steps of each run: a model whose runs all reach them below the grade is done."""

    timestep: float = Field(default=1.0, gt=0)
    """Time step (fs)."""

    friction: float = Field(default=0.01, gt=0)
    """Friction of the Langevin thermostat (1/fs)."""

    grade: float = Field(default=1.5, gt=0)
    """Extrapolation grade of an atom at which a run stops; 1 is the edge of the training data."""

    force: float = Field(default=50.0, gt=0)
    """Force on an atom (eV/angstrom) at which a run stops."""

    interval: int = Field(default=10, ge=1)
    """Steps between looks at the grade, and between frames."""

    blind_steps: int = Field(default=200, ge=1)
    """Steps of each run of a model that cannot tell its grade yet: a fit to fewer than 20 energies. Frames to label
    are then taken evenly from the runs."""

    dtype: Literal["float32", "float64"] = "float32"
    """Precision of the backbone."""

    workers: int | None = None
    """Runs side by side on a CPU; by default as many as there are threads."""

    def __post_init__(self) -> None:
        if not self.temperatures or any(not (t > 0 and math.isfinite(t)) for t in self.temperatures):
            raise ConfigError(f"temperatures {list(self.temperatures)}: give positive numbers, in K")

    @property
    def checkpoint(self) -> int:
        """Steps between restart files: where frames are written and grades known, so that runs go on alike."""
        return _SAVED * self.interval


@plan
class LearnPlan:
    """A loop: explore, select, label, extract, fit, until the grade is never exceeded or the budget ends.

    Raises:
        ConfigError: an option outside its range.
    """

    frames: Annotated[Given[tuple[str | Path, ...], str | Path | Sequence[str | Path]], BeforeValidator(_files)] = (
        preset()
    )
    """Files of the structures to begin with; labelled first, unless ``labelled``."""

    calculator: str | None = None
    """What labels frames: ``emt``, ``tblite(method='GFN2-xTB')``, ``backbone:chgnet``; ``module:Class(arg=1)`` only
    with ``--trust-code``. None with ``labels = "wait"``."""

    labels: Literal["calculator", "wait"] = "calculator"
    """``wait``: somebody else labels, e.g. DFT jobs. The loop writes ``selected.xyz`` and ends; it goes on when
    ``labelled.xyz`` lies beside it and the same command is run again."""

    labelled: bool = False
    """The frames to begin with carry labels, which are taken as they are."""

    keys: Annotated[Given[InstanceOf[LabelKeys], Mapping[str, str]], BeforeValidator(_keys)] = preset(
        default_factory=LabelKeys
    )
    """Where labels stand in files of ``wait``, of ``labelled`` frames and of the test, e.g.
    ``{ energy = "REF_energy", forces = "REF_forces" }``."""

    test: str | Path | None = None
    """File of labelled frames that errors of every generation are reported on; nothing is chosen by them."""

    generations: int = Field(default=10, ge=1)
    """Models that are fitted at most. May be raised when a loop goes on."""

    count: int = Field(default=20, ge=1)
    """Frames that are chosen and labelled in each generation."""

    pool: int = Field(default=300, ge=1)
    """Frames that they are chosen from, spread evenly over the runs."""

    explore: Annotated[Given[InstanceOf[ExplorePlan], Mapping[str, object]], BeforeValidator(_explore)] = preset(
        default_factory=ExplorePlan
    )
    """How models are explored."""

    features: Annotated[Given[InstanceOf[ExtractPlan], Mapping[str, object]], BeforeValidator(_features)] = preset(
        default_factory=lambda: ExtractPlan(derivatives=16)
    )
    """How new frames become features: the fields of ``ExtractPlan``; by default 16 directions of each frame."""

    fit: Annotated[Given[InstanceOf[FitPlan], Mapping[str, object]], BeforeValidator(_fit)] = preset(
        default_factory=FitPlan
    )
    """How models are fitted: the sections of ``fit.toml``."""

    label_workers: int | None = None
    """Processes that label side by side; by default one for each core that may be used."""

    seed: int = Field(default=0, ge=0)
    """Of velocities and thermostats; each run of each generation has one of its own."""

    def __post_init__(self) -> None:
        if not self.frames:
            raise ConfigError("frames: name at least one file of structures to begin with")
        if self.labels == "calculator" and self.calculator is None:
            raise ConfigError('calculator is missing; name one, e.g. calculator = "emt", or write labels = "wait"')
        if self.labels == "wait" and self.calculator is not None:
            raise ConfigError('calculator and labels = "wait": write one of the two')
        if not self.fit.validation.folds or not self.fit.validation.uncertainty:
            raise ConfigError(
                "the loop asks models how sure they are; leave folds and uncertainty of the fit as they are"
            )
        if self.features.part != (1, 1):
            raise ConfigError("features.part is of extractions by hand; leave it out")
