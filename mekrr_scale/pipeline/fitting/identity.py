"""What a fit is, as the states of running fits and kept sums hold it: all that changes its numbers.

The texts are those of version 0.1.0, whose plan was one flat list of fields, so that its states go on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from mekrr_scale.arrays import KINDS
from mekrr_scale.files import file_hash
from mekrr_scale.kernels import SpeciesMixing, exponential
from mekrr_scale.pipeline.fitting.data import FitData
from mekrr_scale.pipeline.fitting.kernels import atomic_number, mixing_matrix
from mekrr_scale.pipeline.fitting.plan import FitPlan
from mekrr_scale.pipeline.fitting.values import DEFAULT_CRITERION
from mekrr_scale.plans import fields_of
from mekrr_scale.version import __version__

_RUNNING = ("device", "memory_bytes", "scratch", "uncertainty", "falkon")  # what changes no number of the solution
_KINDS = ("energy", "force", "stress")  # of rows that 0.1.0 knew
_ALIKE = ({"0.1.0"},)  # versions whose fits are the same


def identity(data: FitData) -> dict[str, object]:
    """What a fit is: every field of its plan that changes numbers, and the stores."""
    flat = {name: repr(value) for name, value in flat_plan(data.plan).items() if name not in _RUNNING}
    own = own_fields(data.plan)
    told: dict[str, object] = {"version": _version(), "exponential": exponential()}
    return {**told, "stores": [store.id for store in data.stores], **flat, **own, **contents(data)}


def contents(data: FitData) -> dict[str, str]:
    """What is in files that a plan or a call only names; 0.1.0 did not look into them."""
    found = {}
    model = data.plan.landmarks.model
    if model is not None and Path(model).is_file():
        found["warm_content"] = file_hash(Path(model), "sha256")
    if data.structures is not None:
        ids = [(item.id, item.group, item.importance) for item in data.structures.listed]
        found["structures_content"] = hashlib.sha256(repr(ids).encode()).hexdigest()
        found["backbone_content"] = data.structures.backbone.identity().weight_hash
    return found


def require_alike(data: FitData, **more: str) -> None:
    """Refuse a job whose ranks would fit different things, before any of them works.

    Devices and scratch folders may differ: they change no decision that all ranks have to take alike.

    Raises:
        ConfigError: on all ranks; names what differs.
    """
    flat = flat_plan(data.plan) | own_fields(data.plan)
    plan = {name: repr(value) for name, value in flat.items() if name not in ("device", "scratch")}
    listed = None if data.structures is None else [item.id for item in data.structures.listed]
    data.group.require_alike(
        version=__version__,
        store=" ".join(store.id for store in data.stores),
        plan=" ".join(f"{name}={value}" for name, value in plan.items()),
        structures=hashlib.sha256(repr(listed).encode()).hexdigest(),
        MEKRR_SCALE_EXP=exponential(),  # differs where processors do, if the environment does not say which
        **more,
    )


def identity_text(plan: FitPlan) -> str:
    """All of a plan as one text."""
    flat = [f"{name}={value!r}" for name, value in flat_plan(plan).items()]
    own = [f"{name}={value}" for name, value in own_fields(plan).items()]
    return f"FitPlan({', '.join(flat + own)})"


def flat_plan(plan: FitPlan) -> dict[str, object]:
    """The fields of version 0.1.0's plan, in its order, with its values."""
    kernel, rows, landmarks, baseline = plan.kernel, plan.rows, plan.landmarks, plan.baseline
    learned = kernel.mixing == "learn"
    mixing: SpeciesMixing | None = None if learned or kernel.mixing is None else mixing_matrix(plan)
    options = {
        name: value
        for name, value in vars(plan.solver).items()
        if name != "ridges" and value != fields_of(type(plan.solver))[name].default
    }
    return {
        "kernel": kernel.name,
        "kernel_parameters": dict(kernel.parameters),
        "length_scales": kernel.length_scales,
        "alphas": kernel.alphas,
        "mixing": mixing,
        "learn_mixing": learned,
        "reduce": kernel.reduce,
        "standardize": kernel.standardize,
        "baselines": baseline.kinds,
        "isolated": {atomic_number(symbol): energy for symbol, energy in baseline.isolated.items()},
        # states hold a hash of the landmarks themselves; auto is what uniform was then, where that was possible
        "landmarks": "uniform" if landmarks.method == "auto" else landmarks.method,
        "n_landmarks": landmarks.count,
        "warm": landmarks.model,
        "balance": landmarks.balance,
        "solver": plan.solver.name,
        "ridges": plan.solver.ridges,
        "folds": plan.validation.folds,
        "energy_weights": rows.weights["energy"],
        "force_weights": rows.weights["force"],
        "store_weights": rows.store_weights,
        "stress_weights": rows.weights["stress"] or (0.0,),
        "select": tuple(_selected(plan)[name] for name in _KINDS),
        "use_derivatives": rows.derivatives,
        "cut": rows.cut,
        "whitening": rows.whitening,
        "device": plan.execution.device,
        "memory_bytes": plan.execution.memory,
        "scratch": plan.execution.scratch,
        "falkon": options,
        "uncertainty": plan.validation.uncertainty,
        "seed": plan.seed,
    }


def own_fields(plan: FitPlan) -> dict[str, str]:
    """Fields that came after 0.1.0, where they are not as they were then."""
    rows, criterion = plan.rows, _selected(plan)
    pairs: dict[str, tuple[object, object]] = {
        "energy_precision": (rows.energy_precision, "float64"),
        "derivative_precision": (rows.derivative_precision, "float32"),
        "config_weights": (rows.config_weights, {}),
        "sigmas": (rows.sigmas, {}),
        "drop_outliers": (rows.drop_outliers, False),
    }
    for name in (info.name for info in KINDS.values() if info.name not in _KINDS):
        pairs |= {
            f"{name}_weights": (rows.weights[name] or (0.0,), (0.0,)),
            f"select_{name}": (criterion[name], 0.0),
        }
    own = {name: repr(now) for name, (now, then) in pairs.items() if now != then}
    if plan.landmarks.grow_to:
        own["grow_to"] = repr(plan.landmarks.grow_to)
    return own  # states of 0.1.0 go on under the default criterion, which was another


def of_sums(data: FitData) -> dict[str, object]:
    """What kept sums are: a fit but for its stores."""
    return {name: value for name, value in identity(data).items() if name != "stores"}


def _selected(plan: FitPlan) -> Mapping[str, float]:
    """The weights of the criterion, of which 0.1.0 knew no other."""
    given = plan.validation.criterion
    return DEFAULT_CRITERION if isinstance(given, str) else given


def _version() -> str:
    """The oldest of the versions that compute the same."""
    return next((min(alike) for alike in _ALIKE if __version__ in alike), __version__)
