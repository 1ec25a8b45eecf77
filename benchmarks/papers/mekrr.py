"""MEKRR itself: energies by kernel mean embeddings of a pretrained network's features.

Falk, Bonati, Novelli, Parrinello and Pontil 2023 (arXiv 2306.01589) fit energies by kernel ridge
regression on the atom features of a SchNet trained on OC20, and transfer between systems. Here
CHGNet's features and the Nystrom solver: errors on the same set, transfer between the facets
Pt(111) and Pt(553) with CO, and what each choice is worth, on formate on Cu(110). Energies alone are
learned, in meV/atom; forces where the text says so.

    python -m benchmarks.papers.mekrr [--quick]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.data import shared
from benchmarks.papers.common import Experiment, disjoint, energies_alone, errors, parted, ratio, spread, tuned
from mekrr_scale.backbones import Backbone, BackboneEnergies, BackboneSpec, load_backbone, new_backbone, save_backbone
from mekrr_scale.models import Model
from mekrr_scale.pipeline import (
    FitPlan,
    KernelPlan,
    LandmarkPlan,
    Validation,
    evaluate_store,
    fit,
    shifted_rmse,
)
from mekrr_scale.store import FeatureStore
from mekrr_scale.transfer import BlockPlan, Example, TrainPlan, finetune, pretrain, randomize

ELEMENTS = ("Ni", "Cu", "Li", "Mo", "Si", "Ge")
SCRATCH_RATES = (1e-3, 3e-3)


@dataclass(frozen=True)
class Sets:
    """Structures to learn from and to test on."""

    training: list[Example]
    test: list[Example]

    def __post_init__(self) -> None:
        disjoint(training=self.training, test=self.test)


def main() -> None:
    it = Experiment.parse("mekrr")
    sets = _sets(it)
    if "pt111" in sets:
        _facets(it, sets)
    else:
        it.say("\nPt(111) and Pt(553): the data are not here (their licence does not let them be copied)")
    _same_set(it, sets)
    _ablation(it, sets["hcoo_cu110"])
    it.finish()


def _sets(it: Experiment) -> dict[str, Sets]:
    hcoo = Sets(
        it.structures("hcoo_cu110/train.xyz.xz", "hcoo_cu110/train.xyz.xz"),
        it.structures("hcoo_cu110/val.xyz.xz", "hcoo_cu110/test.xyz.xz"),
    )
    if it.quick:
        hcoo = Sets(hcoo.training[:16], hcoo.test[:4])
    found = {"hcoo_cu110": hcoo}
    if not it.quick and (shared() / "pt_co").exists():
        for facet in ("pt111", "pt553"):
            training, test = (it.structures(f"pt_co/{facet}_{part}.xyz.xz", "") for part in ("train", "val"))
            found[facet] = Sets(training, test)
    for element in ("Si",) if it.quick else ELEMENTS:
        test, rest = parted(it.structures(f"mlearn/{element}_train.xyz.xz", f"transfer/{element}.xyz.xz"), (0.2,))
        found[element] = Sets(rest, test)
    return found


def _plan(it: Experiment, baseline: str = "composition", **kernel: object) -> FitPlan:
    """The default: composition baseline, everything else by cross-validation; and changes of its kernel."""
    alphas = (1.0,) if it.quick else (0.5, 1.0)
    return FitPlan(
        kernel=KernelPlan(**{"length_scales": "1x,2x,4x", "alphas": alphas, **kernel}),  # type: ignore[arg-type]
        landmarks=LandmarkPlan(count=100 if it.quick else 1000), baseline=baseline,
        validation=Validation(3 if it.quick else 5, uncertainty=False),
    )  # fmt: skip


def _stored_errors(model: Model, store: FeatureStore) -> dict[str, float]:
    found = evaluate_store(model, store)
    told = {key: found.metrics()[key] for key in ("energy_mae", "energy_rmse")}
    return {**told, "energy_rmse_shifted": shifted_rmse(found)}


def _kernel(
    it: Experiment, sets: dict[str, Sets], source: str, target: str, plan: FitPlan | None = None
) -> dict[str, float]:
    """Learned on the training structures of one set, tested on those of another, or of the same."""
    disjoint(training=sets[source].training, test=sets[target].test)
    training = it.store(f"{source}-train", sets[source].training)
    return _stored_errors(fit(training, plan or _plan(it)).model, it.store(f"{target}-test", sets[target].test))


def _same_set(it: Experiment, sets: dict[str, Sets]) -> None:
    it.say("\n| same set | learned from | tested on | MAE, meV/atom | RMSE |\n|---|---|---|---|---|")
    for name, part in sets.items():
        found = it.run(f"{name}-itself", partial(_kernel, it, sets, name, name))
        sizes = f"{len(part.training)} | {len(part.test)}"
        it.say(f"| {name} | {sizes} | {found['energy_mae']:.2f} | {found['energy_rmse']:.2f} |")


def _facets(it: Experiment, sets: dict[str, Sets]) -> None:
    """Learned on one facet, tested on the other; against networks from scratch on the same energies."""
    it.say("\n| transfer | | MAE, meV/atom | RMSE | after a shift per element |\n|---|---|---|---|---|")
    for source, target in (("pt111", "pt553"), ("pt553", "pt111")):
        plans = {"kernel": _plan(it), "kernel, backbone as prior": _plan(it, "backbone")}
        rows = {
            name: [it.run(f"{source}-{target}-{name}", partial(_kernel, it, sets, source, target, plan))]
            for name, plan in plans.items()
        }
        networks = {"SchNet from scratch, energies": False, "SchNet from scratch, energies and forces": True}
        for name, forces in networks.items():
            for seed in range(it.seeds):
                key = f"{source}-{target}-{name}"
                rates = it.rates(key, SCRATCH_RATES, first=not seed)
                work = partial(_network, it, sets[source].training, sets[target].test, seed, forces, rates)
                rows.setdefault(name, []).append(it.run(f"{key}-{seed}", work))
        for name, found in rows.items():
            told = " | ".join(spread(found, f"energy_{key}") for key in ("mae", "rmse", "rmse_shifted"))
            it.say(f"| {source} to {target} | {name} | {told} |")
        limit = " (limit 0.5)" if source == "pt111" else ""
        for kernel in plans:
            for name in networks:
                told = ratio(rows[kernel] * it.seeds, rows[name], "energy_rmse")
                it.say(f"\n{source} to {target}, RMSE: {kernel} / {name}: {told}{limit}")
        it.say()


def _network(
    it: Experiment, training: list[Example], test: list[Example], seed: int, forces: bool, rates: Sequence[float]
) -> dict[str, float]:
    """A SchNet from scratch on the same structures."""
    held, rest = parted(training if forces else energies_alone(training), (0.1,))
    steps = 4 if it.quick else 1500
    plan = TrainPlan(steps=steps, batch=4, seed=seed, validate_every=max(1, steps // 10))
    backbone, rate = tuned(
        rates,
        lambda rate: pretrain(new_backbone(BackboneSpec("schnet")), rest, held, replace(plan, learning_rate=rate)),
    )
    return {**errors(BackboneEnergies(backbone), energies_alone(test)), "rate": rate}


def _ablation(it: Experiment, hcoo: Sets) -> None:
    """One choice changed at a time."""
    it.say("\n| formate on Cu(110) | MAE, meV/atom | RMSE |\n|---|---|---|")
    alone = partial(_plan, it, alphas=1.0)
    base = alone()
    choices: dict[str, FitPlan] = {
        "the default: conv3, Gaussian, sum, alpha 1": base,
        "linear kernel": alone(name="linear", length_scales="1x"),
        **{f"alpha {alpha:g}": alone(alphas=alpha) for alpha in ((0.5,) if it.quick else (0.0, 0.25, 0.5, 0.75))},
        "mean instead of sum": alone(reduce="mean"),
        "mean, alpha 0 (one set)": alone(reduce="mean", alphas=0.0),
        "features not standardised": alone(standardize="none"),
        "backbone as prior": alone("backbone"),
    }
    for name, plan in choices.items():
        _row(it, name, it.run(name, partial(_kernel, it, {"hcoo_cu110": hcoo}, "hcoo_cu110", "hcoo_cu110", plan)))
    layers = ("conv1",) if it.quick else ("conv1", "conv2", "conv4")
    features: dict[str, Callable[[], Backbone]] = {
        **{f"layer {layer}": partial(load_backbone, "chgnet", layer=layer) for layer in layers},
        "random features": lambda: randomize(load_backbone("chgnet"), 0),
        "fine-tuned features (energies)": partial(_tuned_backbone, it, hcoo),
    }
    for name, make in features.items():
        _row(it, name, it.run(name, partial(_on_features, it, hcoo, name, make, base)))
    networks: dict[str, Callable[[], dict[str, float]]] = {
        "fine-tuned CHGNet itself": lambda: errors(
            BackboneEnergies(_tuned_backbone(it, hcoo)), energies_alone(hcoo.test)
        ),
        "SchNet from scratch, energies": lambda: _network(it, hcoo.training, hcoo.test, 0, False, SCRATCH_RATES),
    }
    for name, work in networks.items():
        _row(it, name, it.run(name, work))


def _on_features(
    it: Experiment, hcoo: Sets, name: str, make: Callable[[], Backbone], plan: FitPlan
) -> dict[str, float]:
    backbone, short = make(), name.replace(" ", "_")
    training = it.store(f"hcoo-{short}-train", hcoo.training, backbone)
    return _stored_errors(fit(training, plan).model, it.store(f"hcoo-{short}-test", hcoo.test, backbone))


def _tuned_backbone(it: Experiment, hcoo: Sets) -> Backbone:
    """CHGNet fine-tuned on the same energies, with the first two convolutions frozen."""
    path = it.folder / "tuned.pt"
    if not path.exists() or it.quick:
        held, rest = parted(energies_alone(hcoo.training), (0.1,))
        steps = 2 if it.quick else 300
        plan = TrainPlan(
            steps=steps, batch=4, learning_rate=3e-4, validate_every=max(1, steps // 5),
            blocks=BlockPlan(freeze_up_to="conv2"),
        )  # fmt: skip
        save_backbone(finetune(load_backbone("chgnet"), rest, held, plan).backbone, path)
    return load_backbone("chgnet", checkpoint=str(path))


def _row(it: Experiment, name: str, found: dict[str, float]) -> None:
    it.say(f"| {name} | {found['energy_mae']:.2f} | {found['energy_rmse']:.2f} |")


if __name__ == "__main__":
    main()
