"""What rows count for: candidates for the weights of their kinds, factors of configuration types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from mekrr_scale.arrays import KINDS, ByKind, RowKind, config_hash, kind_named
from mekrr_scale.errors import ConfigError, suggestion
from mekrr_scale.pipeline.fitting.elastic import EXPECTED, stiffness_is_untold
from mekrr_scale.pipeline.fitting.plan import FitPlan
from mekrr_scale.store import FeatureStore, configs_of


def weighed(plan: FitPlan, stores: Sequence[FeatureStore], crystals: bool) -> FitPlan:
    """A plan that says of every kind of rows how they are weighed: what stores hold is not left unused by default.

    Args:
        crystals: whether there are any in the stores.
    """

    def by_default(kind: RowKind) -> tuple[float, ...]:
        weights = KINDS[kind].weights_if_stored
        usable = weights and plan.rows.derivatives and kind in plan.solver.takes.kinds
        if kind is RowKind.ELASTIC:
            return weights if usable and crystals and stiffness_is_untold(stores) else (0.0,)
        return weights if usable and any(store.holds(kind) for store in stores) else (0.0,)

    weights = {name: given or by_default(kind_named(name)) for name, given in plan.rows.weights.items()}
    if plan.rows.sigmas:
        usual = plan.rows.sigmas["default"]
        sigmas = dict(zip(RowKind, usual, strict=False))  # kinds beyond them stay
        if not plan.rows.weights[KINDS[RowKind.ELASTIC].name]:
            sigmas[RowKind.ELASTIC] = EXPECTED
        for kind, sigma in sigmas.items():
            name = KINDS[kind].name
            weights[name] = ((usual[0] / sigma) ** 2 * (weights[name] != (0.0,)),)
    return plan if weights == plan.rows.weights else replace(plan, rows=replace(plan.rows, weights=weights))


def combinations(plan: FitPlan) -> tuple[ByKind[float], ...]:
    """Every combination of the candidates for the weights of the kinds of rows."""
    listed = {kind_named(name): values or (0.0,) for name, values in plan.rows.weights.items()}
    found = (dict(zip(listed, values, strict=True)) for values in product(*listed.values()))
    return tuple(ByKind.of(weights, 0.0) for weights in found)


def config_factors(plan: FitPlan) -> dict[int, tuple[float, ...]]:
    """What a plan multiplies the weights of configuration types with, one factor for each kind of rows."""
    given, sigmas = plan.rows.config_weights, plan.rows.sigmas
    one = (1.0,) * len(RowKind)
    found = {}
    for name in {**given, **sigmas}:
        if name != "default":
            usual = sigmas.get("default", one)
            relative = [(before / own) ** 2 for before, own in zip(usual, sigmas.get(name, usual), strict=True)]
            relative += one[len(relative) :]
            found[config_hash(name)] = tuple(a * b for a, b in zip(given.get(name, one), relative, strict=True))
    return found


def check_configs(plan: FitPlan, stores: Sequence[FeatureStore]) -> None:
    """Refuse weights of configuration types that no structure has."""
    asked = {*plan.rows.config_weights, *plan.rows.sigmas} - {"default"}
    if not asked:
        return
    known = {name for store in stores for name in configs_of(store)}
    for name in sorted(asked - known):
        raise ConfigError(
            f"no structure has the configuration type {name!r}. {suggestion(name, known)}"
            if known
            else f"no structure has the configuration type {name!r}: the stores tell none; extract with --config-key"
        )
