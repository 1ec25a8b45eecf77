"""A cheap student of an expensive teacher: structures are labelled by the teacher, the student learns the labels.

The last step of Radova et al. (arXiv 2502.15582): a foundation model, fine-tuned with few reference
calculations, labels as many structures as its student needs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.stress import full_3x3_to_voigt_6_stress

from mekrr_scale.backbones import Backbone, BackboneSpec, available_backbones, load_backbone, new_backbone
from mekrr_scale.calculator import PredictorCalculator
from mekrr_scale.errors import ConfigError, SimulationError, StructureError, suggestion
from mekrr_scale.model import Model
from mekrr_scale.pipeline import FitPlan
from mekrr_scale.priors import BackboneEnergies, Predictor
from mekrr_scale.progress import Progress, Silent
from mekrr_scale.structures import LabelKeys, read_labels
from mekrr_scale.transfer.adapt import pretrain
from mekrr_scale.transfer.examples import read_examples, split
from mekrr_scale.transfer.kernels import fit_kernel
from mekrr_scale.transfer.plan import TrainPlan

# networks that are small enough to be worth distilling into; sizes where they differ from the defaults
NETWORKS: dict[str, tuple[str, dict[str, float]]] = {
    "schnet-small": ("schnet", {}),
    "schnet-tiny": ("schnet", {"hidden_channels": 32, "num_filters": 32, "num_interactions": 2}),
    "dimenet++-small": ("dimenet++", {}),
}
_TIMED = 10  # structures


@dataclass(frozen=True)
class StudentSpec:
    """What the student is.

    Raises:
        ConfigError: see ``parse``.
    """

    network: str | None = None  # one of ``NETWORKS``
    kernel: BackboneSpec | None = None  # or a kernel on the features of a backbone

    @classmethod
    def parse(cls, text: str) -> StudentSpec:
        """From ``schnet-small``, or ``kernel:chgnet`` or ``kernel:chgnet:conv2``.

        Raises:
            ConfigError: neither a network nor a kernel on a known backbone.
        """
        kind, _, rest = text.partition(":")
        if kind == "kernel":
            name, _, layer = rest.partition(":")
            known = [listed for listed, _, _ in available_backbones()]
            if name not in known:
                raise ConfigError(f"student {text!r}: {suggestion(name, [f'kernel:{listed}' for listed in known])}")
            return cls(kernel=BackboneSpec(name, layer=layer or None))
        if text not in NETWORKS:
            raise ConfigError(
                f"no student {text!r}. {suggestion(text, [*NETWORKS, 'kernel:chgnet', 'kernel:sevennet'])}"
            )
        return cls(network=text)


@dataclass(frozen=True)
class SamplePlan:
    """Structures drawn from the teacher's own dynamics, from each of those that are given.

    Args:
        frames: from each start; 0 for none.
        every: steps between frames.
        temperature: in K.
        timestep: in fs.
        largest_force: beyond it (eV/angstrom) a run ends: the teacher has left what it knows.
    """

    frames: int = 0
    every: int = 50
    temperature: float = 300.0
    timestep: float = 1.0
    largest_force: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.frames < 0 or self.every < 1 or not self.temperature > 0 or not self.timestep > 0:
            raise ConfigError("sampling needs frames >= 0, every >= 1 and a positive temperature and time step")


@dataclass(frozen=True)
class ErrorsBetween:
    """Root mean squares of differences: energies after a shift per element (meV/atom), forces (meV/angstrom)."""

    energy: float
    forces: float


@dataclass(frozen=True)
class DistillReport:
    """A student and what it is worth."""

    student: Model | Backbone
    predictor: Predictor
    labelled: int  # structures that it learned from
    sampled: int  # of them drawn from the teacher's dynamics
    to_teacher: ErrorsBetween  # on the test structures
    to_truth: ErrorsBetween | None  # where they have labels
    teacher_to_truth: ErrorsBetween | None
    seconds: Sequence[float]  # per structure with forces: teacher, student

    @property
    def speed_up(self) -> float:
        return self.seconds[0] / self.seconds[1]


def distill(
    teacher: Predictor,
    structures: Sequence[Atoms],
    student: StudentSpec,
    folder: Path,
    test: Sequence[Atoms] = (),
    train_plan: TrainPlan | None = None,
    fit_plan: FitPlan | None = None,
    derivatives: int = 16,
    sample: SamplePlan | None = None,
    keys: LabelKeys | None = None,
    progress: Progress | None = None,
    valid_fraction: float = 0.1,
) -> DistillReport:
    """Label structures with a teacher and train a student on them.

    Args:
        folder: for the labelled structures (``labelled.xyz``) and, for a kernel, their features.
        test: structures to compare on, apart from those learned from; default: a tenth of them is
            kept apart.
        train_plan, fit_plan: of a network, of a kernel.
        derivatives: directions per structure, for a kernel.
        sample: draw more structures from the teacher's dynamics.
        keys: where the labels of the test structures are, if they have any.

    Raises:
        ConfigError: nothing to label, or too few.
        SimulationError: the teacher's dynamics left what it knows at once, from every start.
    """
    progress = progress or Silent()
    if not structures:
        raise ConfigError("there are no structures to label; give some with --unlabelled")
    held = list(test)
    learned = list(structures)
    if not held:
        if len(learned) < 10:
            raise ConfigError(f"{len(learned)} structures are too few to keep a tenth apart; name others with --test")
        held, learned = learned[::10], [atoms for place, atoms in enumerate(learned) if place % 10]
    sampled = sample_structures(teacher, learned, sample, progress) if sample and sample.frames else []
    labelled = list(label(teacher, [*learned, *sampled], progress))
    folder.mkdir(parents=True, exist_ok=True)
    ase.io.write(folder / "labelled.xyz", labelled, format="extxyz")
    found: Model | Backbone
    predictor: Predictor
    if student.kernel is None:
        found = _network(student, labelled, train_plan or TrainPlan(learning_rate=2e-3), valid_fraction, progress)
        predictor = BackboneEnergies(found)
    else:
        backbone = load_backbone(student.kernel)
        predictor = fit_kernel(read_examples(labelled), backbone, folder, fit_plan, derivatives, progress=progress)
        found = predictor.model
    truth = [_truth(atoms, keys or LabelKeys()) for atoms in held]
    results = [_results(teacher, held), _results(predictor, held)]
    known = [place for place, item in enumerate(truth) if item is not None]
    real = [item for item in truth if item is not None]
    return DistillReport(
        student=found,
        predictor=predictor,
        labelled=len(labelled),
        sampled=len(sampled),
        to_teacher=_between(held, results[1], results[0]),
        to_truth=_between([held[i] for i in known], [results[1][i] for i in known], real) if real else None,
        teacher_to_truth=_between([held[i] for i in known], [results[0][i] for i in known], real) if real else None,
        seconds=timed((teacher, predictor), held),
    )


def label(predictor: Predictor, structures: Sequence[Atoms], progress: Progress | None = None) -> Sequence[Atoms]:
    """Copies of structures with a predictor's energies, forces and, for cells, stress attached."""
    progress = progress or Silent()
    progress.stage("label", len(structures))
    found = []
    for atoms in structures:
        periodic = bool(atoms.cell.rank == 3 and atoms.pbc.any())
        told = predictor.predict(atoms, forces=True, stress=periodic)
        copy = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        results = {"energy": float(told.energy[0]), "forces": _numpy(told.forces)}
        if told.stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(told.stress[0].numpy())
        copy.calc = SinglePointCalculator(copy, **results)
        found.append(copy)
        progress.advance()
    return found


def sample_structures(
    predictor: Predictor, starts: Sequence[Atoms], plan: SamplePlan, progress: Progress | None = None
) -> list[Atoms]:
    """Frames of Langevin dynamics from every start; a run ends where forces become too large.

    Raises:
        SimulationError: not a single frame was drawn.
    """
    progress = progress or Silent()
    progress.stage("sample", plan.frames * len(starts), "frames")
    found: list[Atoms] = []
    for place, start in enumerate(starts):
        atoms = Atoms(start.numbers, positions=start.positions, cell=start.cell, pbc=start.pbc)
        atoms.calc = PredictorCalculator(predictor)
        generator = np.random.default_rng([plan.seed, place])
        MaxwellBoltzmannDistribution(atoms, temperature_K=plan.temperature, rng=generator)
        dynamics = Langevin(
            atoms,
            plan.timestep * units.fs,
            temperature_K=plan.temperature,
            friction=0.02 / units.fs,
            rng=generator,
            fixcm=False,
        )
        for _ in range(plan.frames):
            dynamics.run(plan.every)
            progress.advance()
            if not np.abs(atoms.get_forces()).max() < plan.largest_force:  # NaN too
                break
            found.append(Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc))
    if not found:
        raise SimulationError(
            f"the teacher's dynamics exceeded {plan.largest_force:g} eV/angstrom from every start; lower the "
            "temperature or the time step, or do without sampling"
        )
    return found


def timed(predictors: Sequence[Predictor], structures: Sequence[Atoms], repeats: int = 3) -> list[float]:
    """Seconds per structure with forces, of each: the best of several rounds, taken in turn."""
    few = structures[:: max(1, len(structures) // _TIMED)][:_TIMED]
    best = [float("inf")] * len(predictors)
    for _ in range(repeats + 1):  # the first round warms up
        for place, predictor in enumerate(predictors):
            begin = time.perf_counter()
            for atoms in few:
                predictor.predict(atoms, forces=True)
            best[place] = min(best[place], (time.perf_counter() - begin) / len(few))
    return best


def _network(
    student: StudentSpec, labelled: Sequence[Atoms], plan: TrainPlan, valid_fraction: float, progress: Progress
) -> Backbone:
    name, sizes = NETWORKS[str(student.network)]
    training, validation = split(read_examples(labelled), valid_fraction)
    return pretrain(new_backbone(BackboneSpec(name), sizes), training, validation, plan, progress).backbone


_Result = tuple[float, np.ndarray | None]  # energy and forces


def _truth(atoms: Atoms, keys: LabelKeys) -> _Result | None:
    try:
        labels = read_labels(atoms, keys)
    except StructureError:
        return None
    return None if labels.energy is None else (labels.energy, labels.forces)


def _results(predictor: Predictor, structures: Sequence[Atoms]) -> list[_Result]:
    found = []
    for atoms in structures:
        told = predictor.predict(atoms, forces=True)
        found.append((float(told.energy[0]), _numpy(told.forces)))
    return found


def _numpy(tensor: torch.Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.numpy()


def _between(structures: Sequence[Atoms], given: Sequence[_Result], expected: Sequence[_Result]) -> ErrorsBetween:
    species = sorted({int(z) for atoms in structures for z in atoms.numbers})
    n = np.array([len(atoms) for atoms in structures])
    counts = np.array([[(atoms.numbers == z).sum() for z in species] for atoms in structures]) / n[:, None]
    error = (np.array([energy for energy, _ in given]) - np.array([energy for energy, _ in expected])) / n
    left = error - counts @ np.linalg.lstsq(counts, error, rcond=None)[0]
    pairs = [(a, b) for (_, a), (_, b) in zip(given, expected, strict=True) if a is not None and b is not None]
    forces = np.concatenate([(a - b).ravel() for a, b in pairs]) if pairs else np.array([np.nan])
    return ErrorsBetween(1e3 * _rms(left), 1e3 * _rms(forces))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
