"""Transfer between levels of theory, with energies alone on the high level.

Zaverkin, Holzmueller, Bonfirraro and Kaestner 2022 (arXiv 2212.03916) fine-tune networks from DFT to
coupled cluster with layer-wise learning rates, on energies only. Here a SchNet learns the low level
(energies and forces; PBE/def2-SVP for ethanol, B3LYP/cc-pVDZ for formaldehyde) and 50 CCSD(T)
energies make of it a potential of the high level: by discriminative fine-tuning, or by a kernel on
CHGNet's features that corrects it. CCSD(T) forces are for the test alone.

    python -m benchmarks.papers.levels [--quick]
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import matplotlib
import numpy as np
from ase import Atoms
from ase.optimize import BFGS
from ase.vibrations import Vibrations

from benchmarks.papers.common import Experiment, energies_alone, errors, parted, ratio, spread, subset, tuned, without
from mekrr_scale.backbones import BackboneEnergies, BackboneSpec, load_backbone, new_backbone, save_backbone
from mekrr_scale.models import PredictorCalculator, PriorSpec
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan, LengthScale, Validation
from mekrr_scale.structures import Entry, Predictor
from mekrr_scale.transfer import BlockPlan, Example, TrainPlan, TrainReport, adapted, finetune, fit_kernel, pretrain

matplotlib.use("Agg")

SCRATCH_RATES = (3e-4, 1e-3, 3e-3)
TUNE_RATES = (1e-4, 3e-4, 1e-3)
DECAY = 0.3
SYSTEMS = {
    "ethanol": (("mol_ethanol/pbe_svp_train.xyz.xz", "transfer/ethanol_pbe.xyz.xz"), ("mol_ethanol/ccsdt_train.xyz.xz", "transfer/ethanol_ccsdt.xyz.xz"), "PBE"),
    "formaldehyde": (("mol_h2co/b3lyp_train.xyz.xz", "transfer/h2co_b3lyp.xyz.xz"), ("mol_h2co/ccsdt_train.xyz.xz", "transfer/h2co_ccsdt.xyz.xz"), "B3LYP"),
}  # fmt: skip


def main() -> None:
    it = Experiment.parse("levels")
    for name, (low, high, level) in SYSTEMS.items():
        it.say(f"\n### {name}: {level} to CCSD(T)")
        system = System(it, name, it.structures(*low), it.structures(*high))
        _errors(it, system, level)
        _frequencies(it, system, level)
        if name == "ethanol":
            _torsion(it, system, level)
    it.finish()


class System:
    """A molecule at two levels: sets of structures, and the network of the low level."""

    def __init__(
        self, it: Experiment, name: str, low: list[Example], high: list[Example], like: System | None = None
    ) -> None:
        self.it, self.name = it, name
        test = 0.4 if len(high) < 1000 else 0.3
        parts = parted(high, (test, 25 / len(high))) if like is None else like.parts
        self.parts: list[list[Example]] = (
            parts  # of the high level: to test on, to choose by, and the rest to learn from
        )
        self.test, self.held_forces, self.rest = parts
        self.held = energies_alone(self.held_forces)
        self.size = 20 if it.quick else 50
        # both levels may be of the same geometries: the low level's network learns none that it is tested on
        self.low = without(low, self.test)
        self.source = self._low_level(self.low)

    def _low_level(self, low: list[Example]) -> BackboneSpec:
        path = self.it.folder / f"{self.name}-low.pt"
        if not path.exists() or self.it.quick:
            validation, training = parted(low, (0.1,))
            plan = TrainPlan(steps=10 if self.it.quick else 6000, batch=10, learning_rate=3e-3)
            report = pretrain(new_backbone(BackboneSpec("schnet")), training, validation, plan)
            save_backbone(report.backbone, path)
            self.it.say(f"low level: {len(training)} structures, validation {report.best.errors}")
        return BackboneSpec("schnet", checkpoint=str(path), layer="interaction3")

    def learner(self, seed: int) -> Learner:
        return Learner(self, subset(self.rest, self.size, seed), seed)

    @property
    def minimum(self) -> Atoms:
        """A structure near the minimum: that of the lowest energy."""
        return min(self.rest, key=lambda example: example.labels.energy or 0.0).atoms.copy()

    def reference(self) -> Predictor:
        """As near to CCSD(T) as the data go: a kernel on energies and forces of several hundred structures."""
        chosen = subset(self.rest, 20 if self.it.quick else 400, 7)
        return corrected(self, chosen, 4 if self.it.quick else 24, BackboneSpec("chgnet"), 3000)


@dataclass(frozen=True)
class Learner:
    """Fifty CCSD(T) structures, and the ways to learn from them."""

    system: System
    training: list[Example]
    seed: int

    @property
    def energies(self) -> list[Example]:
        return energies_alone(self.training)

    def low_level(self) -> Predictor:
        """The low level as it is."""
        return BackboneEnergies(load_backbone(self.system.source))

    def low(self) -> Predictor:
        """The low level, with references fitted to the high one's energies."""
        return BackboneEnergies(adapted(load_backbone(self.system.source), self.energies))

    def delta(self) -> Predictor:
        return corrected(self.system, self.energies, 0, BackboneSpec("chgnet"))

    def delta_own(self) -> Predictor:
        """The same on the features of the low level's network itself."""
        return corrected(self.system, self.energies, 0, self.system.source)

    def without(self) -> Predictor:
        return corrected(self.system, self.energies, 0, BackboneSpec("chgnet"), corrects=False)

    def discriminative(self) -> Predictor:
        blocks = BlockPlan(decay=DECAY)
        return self._tuned(
            TUNE_RATES,
            lambda plan: finetune(
                load_backbone(self.system.source), self.energies, self.system.held, replace(plan, blocks=blocks)
            ),
        )

    def uniform(self) -> Predictor:
        """One rate for all blocks."""
        return self._tuned(
            TUNE_RATES, lambda plan: finetune(load_backbone(self.system.source), self.energies, self.system.held, plan)
        )

    def scratch(self) -> Predictor:
        new = BackboneSpec("schnet")
        return self._tuned(
            SCRATCH_RATES, lambda plan: pretrain(new_backbone(new), self.energies, self.system.held, plan)
        )

    def scratch_forces(self) -> Predictor:
        new = BackboneSpec("schnet")
        return self._tuned(
            SCRATCH_RATES, lambda plan: pretrain(new_backbone(new), self.training, self.system.held_forces, plan)
        )

    def _tuned(self, rates: Sequence[float], train: Callable[[TrainPlan], TrainReport]) -> Predictor:
        steps = 5 if self.system.it.quick else 600
        plan = TrainPlan(steps=steps, batch=10, seed=self.seed, validate_every=max(1, steps // 12))
        return BackboneEnergies(tuned(rates, lambda rate: train(replace(plan, learning_rate=rate)))[0])


def corrected(
    system: System,
    training: Sequence[Example],
    derivatives: int,
    features: BackboneSpec,
    landmarks: int = 1000,
    corrects: bool = True,
) -> Predictor:
    """A kernel on features, correcting the low level's network or not."""
    it = system.it
    atoms = sum(len(example.atoms) for example in training)
    lengths = (1.0, 4.0, 16.0) if not it.quick else (4.0,)
    prior = PriorSpec.parse(str(system.source.checkpoint), Entry()) if corrects else None
    plan = FitPlan(
        kernel=KernelPlan(length_scales=tuple(map(LengthScale, lengths))),
        landmarks=LandmarkPlan(count=min(landmarks, atoms)), baseline="composition" if prior is None else "prior",
        validation=Validation(criterion={"force": 1e-2 if derivatives else 0.0}, uncertainty=False),
    )  # fmt: skip
    backbone = load_backbone(features)
    return fit_kernel(training, backbone, it.work, plan, derivatives or "none", prior)


def _errors(it: Experiment, system: System, level: str) -> None:
    ways = {
        f"{level} network after shift": Learner.low,
        "kernel without prior": Learner.without,
        "delta kernel": Learner.delta,
        "delta kernel, the network's own features": Learner.delta_own,
        "discriminative fine-tuning": Learner.discriminative,
        "fine-tuning, one rate": Learner.uniform,
        "scratch on energies": Learner.scratch,
        "scratch on energies and forces": Learner.scratch_forces,
    }
    runs = it.run_all(
        [
            (f"{system.name}-{way}-{seed}", partial(_learned, system, make, seed))
            for seed in range(it.seeds)
            for way, make in ways.items()
        ]
    )
    found = {way: runs[place :: len(ways)] for place, way in enumerate(ways)}
    it.say(f"\n| {system.size} CCSD(T) energies ({len(system.test)} to test) | forces, meV/A | energy, meV/atom |")
    it.say("|---|---|---|")
    for way, rows in found.items():
        it.say(f"| {way} | {spread(rows)} | {spread(rows, 'energy_rmse')} |")
    low, delta = found[f"{level} network after shift"], found["delta kernel"]
    it.say("\n| ratio of force RMSE | mean (lowest to highest) | limit |\n|---|---|---|")
    it.say(f"| delta kernel / {level} after shift | {ratio(delta, low)} | 0.75 |")
    it.say(f"| delta kernel / kernel without prior | {ratio(delta, found['kernel without prior'])} | 0.40 |")
    tuned_rows = found["discriminative fine-tuning"]
    it.say(f"| discriminative / scratch on energies | {ratio(tuned_rows, found['scratch on energies'])} | 0.20 |")
    it.say(
        f"| delta kernel on energies / scratch on energies and forces | "
        f"{ratio(delta, found['scratch on energies and forces'])} | 0.70 |"
    )


def _learned(system: System, make: Callable[[Learner], Predictor], seed: int) -> dict[str, float]:
    return errors(make(system.learner(seed)), system.test)


def _frequencies(it: Experiment, system: System, level: str) -> None:
    """Harmonic frequencies at each model's own minimum, beside those of the reference kernel."""
    models = _models(system, level)
    tables = {}
    for name, predictor in models.items():
        key = f"{system.name}-frequencies-{name}"
        found = it.run(key, lambda predictor=predictor: _harmonic(predictor, system.minimum, 0.3 if it.quick else 1e-3))
        tables[name] = [found[k] for k in sorted(found) if k.startswith("mode")]
    names = list(models)
    it.say("\n| harmonic frequency, 1/cm | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for mode in range(len(tables[names[0]])):
        it.say(f"| {mode + 1} | " + " | ".join(f"{tables[name][mode]:.0f}" for name in names) + " |")
    own = it.run(f"{system.name}-reference", lambda: errors(models["reference"], system.test))
    it.say(f"\nthe reference kernel itself: {own['force_rmse']:.1f} meV/A, {own['energy_rmse']:.2f} meV/atom\n")
    last = np.array(tables[names[-1]])
    for name in names[:-1]:
        it.say(
            f"mean absolute difference of {name} to the reference: {np.abs(np.array(tables[name]) - last).mean():.0f}"
        )


@cache
def _models(system: System, level: str) -> dict[str, Predictor]:
    learner = system.learner(0)
    return {
        level: learner.low(),
        "delta kernel": learner.delta(),
        "discriminative": learner.discriminative(),
        "reference": system.reference(),
    }


def _harmonic(predictor: Predictor, atoms: Atoms, largest: float) -> dict[str, float]:
    """Frequencies (1/cm) at the minimum near a structure; imaginary ones as negative numbers."""
    atoms.calc = PredictorCalculator(predictor)
    BFGS(atoms, logfile=None).run(fmax=largest, steps=20 if largest > 0.1 else 500)
    with tempfile.TemporaryDirectory() as folder:
        vibrations = Vibrations(atoms, name=str(Path(folder) / "vib"), delta=0.005)
        vibrations.run()
        found = vibrations.get_frequencies()
    real = np.sort(np.where(np.abs(found.imag) > np.abs(found.real), -np.abs(found.imag), found.real))
    kept = np.sort(real[np.argsort(np.abs(real))][6:])  # without translations and rotations
    return {f"mode{place:02d}": float(value) for place, value in enumerate(kept)}


def _torsion(it: Experiment, system: System, level: str) -> None:
    """Energy along the rigid rotation of the hydroxyl group, from the reference's minimum."""
    import matplotlib.pyplot as plt

    models = _models(system, level)
    atoms = system.minimum
    atoms.calc = PredictorCalculator(models["reference"])
    BFGS(atoms, logfile=None).run(fmax=0.3 if it.quick else 1e-3, steps=20 if it.quick else 500)
    oxygen = int(np.flatnonzero(atoms.numbers == 8)[0])
    near = np.argsort(atoms.get_distances(oxygen, range(len(atoms))))
    hydrogen = int(next(i for i in near if atoms.numbers[i] == 1))
    carbon = int(next(i for i in near if atoms.numbers[i] == 6))
    other = int(next(i for i in range(len(atoms)) if atoms.numbers[i] == 6 and i != carbon))
    angles = np.arange(0, 361, 60 if it.quick else 15)
    profiles = {}
    for name, predictor in models.items():
        energies = []
        for angle in angles:
            turned = Atoms(atoms.numbers, positions=atoms.positions)
            turned.set_dihedral(hydrogen, oxygen, carbon, other, float(angle), indices=[hydrogen])
            energies.append(float(predictor.predict(turned, forces=False).energy[0]))
        profiles[name] = 1e3 * (np.array(energies) - min(energies))
    it.say("\n| torsion of the hydroxyl group | barrier, meV | RMS difference to the reference, meV |\n|---|---|---|")
    for name, profile in profiles.items():
        difference = profile - profile.mean() - (profiles["reference"] - profiles["reference"].mean())
        it.say(f"| {name} | {profile.max():.0f} | {np.sqrt(np.mean(difference**2)):.1f} |")
    figure, axis = plt.subplots(figsize=(5.2, 3.8))
    for name, profile in profiles.items():
        axis.plot(angles, profile, marker="o", markersize=3, label=name)
    axis.set(xlabel="dihedral H-O-C-C (degrees)", ylabel="energy (meV)")
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(it.figures / "papers_torsion.png", dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
