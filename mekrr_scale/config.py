"""TOML files and flags to the plans of the pipeline, checked by pydantic."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mekrr_scale.baselines import BaselineKind
from mekrr_scale.cache import default_scratch
from mekrr_scale.errors import ConfigError, suggestion
from mekrr_scale.kernels import SpeciesMixing
from mekrr_scale.pipeline import FitPlan, LandmarkMethod, LengthScale
from mekrr_scale.pool import Balance
from mekrr_scale.transforms import Standardize
from mekrr_scale.whitening import WhiteningMethod

_UNITS = {"": 1, "B": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def parse_bytes(text: str | int) -> int:
    """A size such as ``512M`` or ``2GB`` in bytes.

    >>> parse_bytes("512M")
    536870912

    Raises:
        ConfigError: not a size.
    """
    bare = str(text).strip().upper().removesuffix("IB").removesuffix("B").strip()
    number, unit = (bare[:-1], bare[-1]) if bare[-1:] in ("K", "M", "G", "T") else (bare, "")
    try:
        size = int(float(number) * _UNITS[unit])
    except ValueError:
        raise ConfigError(f"{text!r} is not a size; write 512M or 2G") from None
    if size < 0:
        raise ConfigError(f"{text!r} is negative; write a size such as 2G")
    return size


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


Listed = BeforeValidator(_listed)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KernelSection(_Section):
    """[kernel]: lists are candidates that cross-validation chooses among."""

    name: str = "gaussian"
    length_scale: Annotated[list[float | str], Listed] = ["2x", "4x"]
    alpha: Annotated[list[float], Listed] = [1.0]
    # element: row of the matrix, in the order of the keys; or "learn"
    mixing: dict[str, list[float]] | Literal["learn"] | None = None
    reduce: Literal["sum", "mean"] = "sum"
    standardize: Annotated[list[Standardize], Listed] = ["scale-per-species"]
    parameters: dict[str, float] = Field(default_factory=dict)


class BaselineSection(_Section):
    """[baseline]: without a kind, those that the store allows are tried."""

    kind: Annotated[list[BaselineKind] | None, BeforeValidator(lambda v: None if v is None else _listed(v))] = None
    isolated: dict[str, float] = Field(default_factory=dict)  # eV by element


class LandmarkSection(_Section):
    """[landmarks]"""

    method: LandmarkMethod = "uniform"
    count: int = Field(default=1000, ge=0)
    model: str | None = None  # a model whose landmarks are taken too
    balance: Balance = "sqrt"


class SolverSection(_Section):
    """[solver]"""

    name: Literal["direct", "falkon", "exact"] = "direct"
    ridge: Annotated[list[float], Listed] = [10.0 ** (k / 2) for k in range(-20, -3)]
    energy_weight: Annotated[list[float], Listed] = [1.0]
    force_weight: Annotated[list[float], Listed] = [1e-4, 1e-3, 1e-2, 1e-1]
    stress_weight: Annotated[list[float], Listed] = [0.0]
    select: tuple[float, float, float] = (1.0, 1e-4, 0.0)
    derivatives: bool = True
    cut: float = 1e-11
    whitening: WhiteningMethod = "eigen"
    device: str = "cpu"
    memory: str | int = "2G"
    scratch: str | None = None  # a folder, or "none"
    falkon: dict[str, float | int | str] = Field(default_factory=dict)


class FitConfig(_Section):
    """A whole fit. Every key is described in docs/configuration.md."""

    store: Annotated[list[str], Listed]
    output: str = "model.mekrr"
    store_weight: Annotated[list[float], Listed] = []
    validate_folds: int = Field(default=5, ge=0, alias="validate")
    seed: int = Field(default=0, ge=0)
    uncertainty: bool = True
    kernel: KernelSection = KernelSection()
    baseline: BaselineSection = BaselineSection()
    landmarks: LandmarkSection = LandmarkSection()
    solver: SolverSection = SolverSection()

    def plan(self) -> FitPlan:
        """The plan that the pipeline runs.

        Raises:
            ConfigError: a value outside its range.
        """
        return FitPlan(
            kernel=self.kernel.name,
            kernel_parameters=_integers(self.kernel.parameters),
            length_scales=tuple(LengthScale.parse(text) for text in self.kernel.length_scale),
            alphas=tuple(self.kernel.alpha),
            mixing=None if self.kernel.mixing == "learn" else _mixing(self.kernel.mixing),
            learn_mixing=self.kernel.mixing == "learn",
            reduce=self.kernel.reduce,
            standardize=tuple(self.kernel.standardize),
            baselines=None if self.baseline.kind is None else tuple(self.baseline.kind),
            isolated={_number(symbol): energy for symbol, energy in self.baseline.isolated.items()},
            landmarks=self.landmarks.method,
            n_landmarks=self.landmarks.count,
            warm=None if self.landmarks.model is None else Path(self.landmarks.model),
            store_weights=tuple(self.store_weight),
            balance=self.landmarks.balance,
            solver=self.solver.name,
            ridges=tuple(self.solver.ridge),
            folds=self.validate_folds,
            energy_weights=tuple(self.solver.energy_weight),
            force_weights=tuple(self.solver.force_weight),
            stress_weights=tuple(self.solver.stress_weight),
            select=self.solver.select,
            use_derivatives=self.solver.derivatives,
            cut=self.solver.cut,
            whitening=self.solver.whitening,
            memory_bytes=parse_bytes(self.solver.memory),
            device=self.solver.device,
            scratch=_scratch(self.solver.scratch),
            falkon=self.solver.falkon,
            uncertainty=self.uncertainty,
            seed=self.seed,
        )


def load_config(path: Path | None, flags: Mapping[str, Any]) -> FitConfig:
    """A configuration from a TOML file, flags on top; relative paths in it count from the file.

    Args:
        flags: dotted keys, e.g. ``{"kernel.alpha": [0.5]}``; None values are passed over.

    Raises:
        ConfigError: no such file, broken TOML, an unknown key (the closest is named) or a bad value.
    """
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"there is no configuration file {path}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
        if "store" in data:
            data["store"] = [str(path.parent / item) for item in _listed(data["store"])]
        if "model" in data.get("landmarks", {}):
            data["landmarks"]["model"] = str(path.parent / data["landmarks"]["model"])
        if "output" in data:
            data["output"] = str(path.parent / data["output"])
    for key, value in flags.items():
        if value is None:
            continue
        *sections, name = key.split(".")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    try:
        return FitConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error, path)) from error


def _explain(error: ValidationError, path: Path | None) -> str:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    place = f"{path}: " if path else ""
    if first["type"] == "extra_forbidden":
        section = FitConfig.model_fields.get(where[0])
        nested = section.annotation if len(where) > 1 and section else FitConfig
        fields = getattr(nested, "model_fields", {})
        names = [info.alias or name for name, info in fields.items()]
        return f"{place}unknown key {'.'.join(where)!r}. {suggestion(where[-1], names)}"
    if first["type"] == "missing":
        return f"{place}{'.'.join(where)!r} is missing; name it in the file or on the command line"
    return f"{place}{'.'.join(where)}: {first['msg']} (got {first['input']!r})"


def _scratch(text: str | None) -> Path | None:
    if text is None:
        return default_scratch()
    return None if text.lower() == "none" else Path(text)


def _mixing(rows: Mapping[str, list[float]] | None) -> SpeciesMixing | None:
    if rows is None:
        return None
    return SpeciesMixing(0.0, tuple(_number(symbol) for symbol in rows), tuple(tuple(row) for row in rows.values()))


def _number(symbol: str) -> int:
    from ase.data import atomic_numbers

    if symbol not in atomic_numbers:
        raise ConfigError(f"{symbol!r} is not an element; write its symbol, e.g. Cu")
    return int(atomic_numbers[symbol])


def _integers(parameters: Mapping[str, float]) -> dict[str, Any]:
    return {key: int(value) if key == "degree" else value for key, value in parameters.items()}
