"""What a tuning is to do. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, InstanceOf

from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.errors import ConfigError
from mekrr_scale.models import PriorSpec
from mekrr_scale.plans import Given, plan, preset
from mekrr_scale.structures import Entry, LabelKeys

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_LEAST = 10.0  # seconds


def parse_seconds(value: Any) -> Any:
    """A time such as ``30m`` or ``2h30m`` in seconds.

    >>> parse_seconds("1h30m"), parse_seconds("90")
    (5400.0, 90.0)

    Raises:
        ConfigError: no time.
    """
    if not isinstance(value, str):
        return value
    pieces = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]*)", value.strip().lower())
    whole = re.fullmatch(r"(\d+(\.\d+)?\s*[a-z]*\s*)+", value.strip().lower())
    if whole is None or any(unit not in _SECONDS for _, unit in pieces):
        raise ConfigError(f"{value!r} is no time; write seconds, or e.g. 90s, 30m, 2h or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in pieces)


def _backbones(value: Any) -> Any:
    """Names of backbones, with layers behind a colon, or specifications."""
    if value is None:
        return None
    items = [value] if isinstance(value, str | BackboneSpec) else list(value)
    return tuple(BackboneSpec.parse(item) if isinstance(item, str) else item for item in items) or None


def _prior(value: Any) -> Any:
    return PriorSpec.parse(str(value), Entry()) if value is not None and not isinstance(value, PriorSpec) else value


@plan
class TunePlan:
    """How the best model is looked for, and for how long.

    Raises:
        ConfigError: an option outside its range.
    """

    budget: Annotated[Given[float, str], BeforeValidator(parse_seconds)] = preset(default=1800.0)
    """Time for everything, in seconds or as ``30m``; what finished steps took before a kill counts."""

    backbones: Annotated[
        Given[tuple[InstanceOf[BackboneSpec], ...] | None, str | BackboneSpec | Sequence[str | BackboneSpec]],
        BeforeValidator(_backbones),
    ] = preset(default=None)
    """The networks that race; a name alone stands for the layers and weights worth trying. By default all that are
    installed and carry weights."""

    derivatives: int | Literal["auto", "all", "none"] = "auto"
    """Tangents, to learn forces: directions per structure, ``all``, ``none``; ``auto``: as many as the budget
    allows where there are forces."""

    strain: bool | Literal["auto"] = "auto"
    """Tangents along strains, to learn stress; ``auto``: where most frames have one."""

    landmarks: int = Field(default=4000, ge=1)
    """Landmarks at most: their number grows until the cross-validated error stops falling."""

    folds: int = Field(default=5, ge=2)
    """Of the cross-validation that everything is chosen by."""

    test_share: float = Field(default=0.1, ge=0, lt=1)
    """Part of the frames that is held out to report errors on, where no test set is given; whole trajectories or
    blocks of consecutive frames. 0 for none: errors are then those of the cross-validation."""

    keys: InstanceOf[LabelKeys] = Field(default_factory=LabelKeys)
    """Where labels stand in the files, and in which units."""

    prior: Annotated[Given[InstanceOf[PriorSpec] | None, str | Path], BeforeValidator(_prior)] = preset(default=None)
    """Whose energies and forces may be corrected: a model's file, a backbone (see ``ExtractPlan``)."""

    group_key: str | None = None
    """Info key of the trajectory that a frame belongs to."""

    format: str | None = None
    """ASE's name of the files' format, where their names do not tell."""

    on_duplicate: Literal["error", "newest"] = "error"
    """Where labels of one geometry differ: ``error``, or take the ``newest``, the one that stands last."""

    device: str = "cpu"
    """torch device of backbone and kernel, e.g. cuda."""

    part: tuple[int, int] = (1, 1)
    """(i, n): race every n-th candidate from the i-th on, and stop: one job of an array. When all have ended, the same
    without a part goes on with what they found."""

    seed: int = Field(default=0, ge=0)
    """Of subsets, directions and landmarks."""

    ignore_charge: bool = False
    """Take frames of several charges or spins, which features do not know; refused otherwise."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.budget) and self.budget >= _LEAST):
            raise ConfigError(f"budget {self.budget} s: give at least {_LEAST:g} s, e.g. 30m")
        if isinstance(self.derivatives, int) and self.derivatives < 1:
            raise ConfigError(f"{self.derivatives} directions per structure; give a positive number, all, none or auto")
        index, count = self.part
        if not 1 <= index <= count:
            raise ConfigError(f"part {index}/{count}: parts are counted from 1, e.g. --part 1/{max(count, 1)}")
