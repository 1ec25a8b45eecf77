"""A cheap student of an expensive teacher: structures are labelled by the teacher, the student learns the labels.

The last step of Radova et al. (arXiv 2502.15582): a foundation model, fine-tuned with few reference
calculations, labels as many structures as its student needs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from pydantic import Field

from mekrr_scale.arrays import usable_device
from mekrr_scale.backbones import Backbone, BackboneEnergies, BackboneSpec, available_backbones, load_backbone
from mekrr_scale.errors import ConfigError, SimulationError, StructureError, suggestion
from mekrr_scale.figures import Shown, TextTable, error_bars
from mekrr_scale.models import Model, Potential, PredictorCalculator, PriorSpec, load_prior
from mekrr_scale.outputs import LABELLED, LABELLED_BY, check_output
from mekrr_scale.pipeline import FitPlan
from mekrr_scale.plans import plan, plan_of
from mekrr_scale.progress import Progress, shown_progress
from mekrr_scale.regression import UNITS, Execution
from mekrr_scale.structures import (
    Entry,
    Frames,
    LabelKeys,
    Labels,
    Predictor,
    bare,
    read_labels,
    structure_hash,
    structures_from,
    write_structures,
)
from mekrr_scale.transfer.adapt import pretrain
from mekrr_scale.transfer.errors import PredictionErrors, errors_between, predicted
from mekrr_scale.transfer.examples import Example
from mekrr_scale.transfer.kernel_fit import fit_kernel
from mekrr_scale.transfer.networks import NETWORKS
from mekrr_scale.transfer.plan import TrainPlan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
        """From ``schnet-small``, or ``kernel:chgnet``, ``kernel:chgnet:conv2`` or ``kernel:sevennet:gate1:norms``.

        Raises:
            ConfigError: neither a network nor a kernel on a known backbone.
        """
        kind, _, rest = text.partition(":")
        if kind == "kernel":
            chosen = BackboneSpec.parse(rest)
            known = [listed for listed, _, _ in available_backbones()]
            if chosen.name not in known:
                hint = suggestion(chosen.name, [f"kernel:{listed}" for listed in known])
                raise ConfigError(f"student {text!r}: {hint}")
            return cls(kernel=chosen)
        if text not in NETWORKS:
            raise ConfigError(
                f"no student {text!r}. {suggestion(text, [*NETWORKS, 'kernel:chgnet', 'kernel:sevennet'])}"
            )
        return cls(network=text)


@plan
class SamplePlan:
    """More structures to label: from the teacher's own dynamics, and displaced at random.

    Raises:
        ConfigError: a value outside its range, or of no such kind.
    """

    frames: int = Field(default=0, ge=0)
    """Of a run from each structure; 0 for none."""

    every: int = Field(default=50, ge=1)
    """Steps between frames."""

    temperature: float = Field(default=300.0, gt=0)
    """Temperature of the runs (K)."""

    timestep: float = Field(default=1.0, gt=0)
    """Time step (fs)."""

    largest_force: float = Field(default=30.0, gt=0)
    """Force (eV/angstrom) beyond which a run ends: the teacher has left what it knows."""

    rattle: float = 0.0
    """Standard deviation (angstrom) of the displacements of one copy of each structure; 0 for none."""

    seed: int = Field(default=0, ge=0)
    """Of velocities, thermostats and displacements."""

    friction: float = Field(default=0.02, gt=0)
    """Of the thermostat (1/fs)."""

    def __post_init__(self) -> None:
        if not 0 <= self.rattle < 1:
            raise ConfigError(f"rattle = {self.rattle:g}: displacements are in angstrom, from 0 to below 1")


@dataclass(frozen=True, repr=False)
class DistillReport(Shown):
    """A student and what it is worth."""

    student: Model | Backbone
    predictor: Predictor
    labelled: int  # structures that it learned from
    sampled: int  # of them from the teacher's dynamics, or displaced
    to_teacher: PredictionErrors  # on the test structures
    to_truth: PredictionErrors | None  # where they have labels
    teacher_to_truth: PredictionErrors | None
    seconds: Sequence[float]  # per structure with forces: teacher, student

    @property
    def speed_up(self) -> float:
        return self.seconds[0] / self.seconds[1]

    def headline(self) -> str:
        kind = "kernel" if isinstance(self.student, Model) else self.student.name
        return f"Student ({kind}) of {self.labelled} structures, {self.speed_up:.3g} times as fast as its teacher"

    def tables(self) -> list[TextTable]:
        """Errors of student and teacher, and what a structure costs."""
        teacher, student = (f"{1e3 * value:.3g}" for value in self.seconds)
        rows = []
        for name, errors, cost in (
            ("student against teacher", self.to_teacher, ""),
            ("teacher against truth", self.teacher_to_truth, teacher),
            ("student against truth", self.to_truth, student),
        ):
            shown = ["-", "-"] if errors is None else [f"{errors.energy_rmse_shifted:.3g}", f"{errors.force_rmse:.4g}"]
            rows.append((name, *shown, cost))
        caption = (
            f"RMSE: energy after a shift per element in {UNITS['energy'].text}, forces in {UNITS['force'].text}; "
            f"{self.labelled} structures labelled ({self.sampled} of them sampled); the student is "
            f"{self.speed_up:.3g} times as fast"
        )
        columns = ("", "energy", "forces", "ms a structure")
        return [TextTable("Distillation, on the test structures", columns, tuple(rows), caption)]

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it; null where the test structures have no labels."""
        return {
            "structures": self.labelled,
            "sampled": self.sampled,
            "student_to_teacher": asdict(self.to_teacher),
            "student_to_truth": None if self.to_truth is None else asdict(self.to_truth),
            "teacher_to_truth": None if self.teacher_to_truth is None else asdict(self.teacher_to_truth),
            "seconds": {"teacher": self.seconds[0], "student": self.seconds[1]},
            "units": {name: UNITS[name].text for name in ("energy", "force")},
        }

    def plot(self, axes: Axes | None = None) -> Axes:
        """Errors of the forces, component by component: student and teacher against each other and the truth."""
        pairs = {
            "student,\nteacher": self.to_teacher, "teacher,\ntruth": self.teacher_to_truth,
            "student,\ntruth": self.to_truth,
        }  # fmt: skip
        known = {name: (errors.force_mae, errors.force_rmse) for name, errors in pairs.items() if errors is not None}
        return error_bars(known, f"force error ({UNITS['force'].symbol})", axes)


def distill(
    teacher: Predictor | Model | Path | str,
    structures: Frames,
    student: StudentSpec | str = "schnet-small",
    folder: Path | str = "distilled",
    test: Frames = (),
    train_plan: TrainPlan | None = None,
    fit_plan: FitPlan | None = None,
    derivatives: int = 16,
    sample: SamplePlan | None = None,
    keys: LabelKeys | None = None,
    progress: Progress | None = None,
    valid_fraction: float = 0.1,
    overwrite: bool = False,
    device: str = "cpu",
) -> DistillReport:
    """Label structures with a teacher and train a student on them.

    Args:
        teacher: what predicts, a model or its file, or a backbone as ``extract --prior`` names it.
        structures: files, or in memory.
        student: ``schnet-small``, ``kernel:chgnet``, ... (``StudentSpec.parse``).
        folder: for the labelled structures (``labelled.xyz``) and, for a kernel, their features.
        test: structures to compare on, apart from those learned from; default: a tenth of them is
            kept apart.
        train_plan, fit_plan: of a network, of a kernel.
        derivatives: directions per structure, for a kernel.
        sample: more structures, from the teacher's dynamics or displaced.
        keys: where the labels of the test structures are, if they have any.
        progress: what shows how far it is; by default a bar in terminals and notebooks.
        overwrite: a ``labelled.xyz`` in the folder that ``distill`` did not write may be replaced.
        device: torch device that the student learns and predicts on, and a teacher that is loaded here.

    Raises:
        ConfigError: nothing to label, or too few; or the labelled structures cannot or must not be written.
        SimulationError: the teacher's dynamics left what it knows at once, from every start.
    """
    sample, device = plan_of(sample, SamplePlan), usable_device(device)
    learned, held = list(structures_from(structures)), list(structures_from(test))
    if not learned:
        raise ConfigError("there are no structures to label; give some with --unlabelled")
    student = StudentSpec.parse(student) if isinstance(student, str) else student
    Path(folder).mkdir(parents=True, exist_ok=True)
    check_output(Path(folder) / "labelled.xyz", LABELLED, overwrite)
    predictor = as_teacher(teacher, device)
    how = _How(Path(folder), train_plan, fit_plan, derivatives, sample, valid_fraction, device)
    with shown_progress(progress) as shown:
        return _distilled(predictor, learned, held, student, how, keys or LabelKeys(), shown)


def as_teacher(given: Predictor | Model | Path | str, device: str = "cpu") -> Predictor:
    """What predicts, of whatever a caller has.

    Raises:
        ConfigError: a text that names neither a file nor a backbone.
    """
    if isinstance(given, Predictor):
        return given
    if isinstance(given, Model):
        return Potential(given, device=device)
    return load_prior(PriorSpec.parse(str(given), Entry()).pinned(), device=device)


@dataclass(frozen=True)
class _How:
    folder: Path
    train_plan: TrainPlan | None
    fit_plan: FitPlan | None
    derivatives: int
    sample: SamplePlan
    valid_fraction: float
    device: str


def _distilled(
    teacher: Predictor,
    learned: list[Atoms],
    held: list[Atoms],
    student: StudentSpec,
    how: _How,
    keys: LabelKeys,
    progress: Progress,
) -> DistillReport:
    folder, sample = how.folder, how.sample
    if not held:
        if len(learned) < 10:
            raise ConfigError(f"{len(learned)} structures are too few to keep a tenth apart; name others with --test")
        held, learned = learned[::10], [atoms for place, atoms in enumerate(learned) if place % 10]
    sampled = sample_structures(teacher, learned, sample, progress) if sample.frames else []
    if sample.rattle:
        sampled += rattled(learned, sample.rattle, sample.seed)
    labelled = label(teacher, [*learned, *sampled], progress)
    write_structures(folder / "labelled.xyz", (_signed(example.frame()) for example in labelled))
    found: Model | Backbone
    predictor: Predictor
    if student.network is not None:
        plan = how.train_plan or TrainPlan(learning_rate=2e-3)
        network = NETWORKS[student.network].new().to(how.device)
        found = pretrain(network, labelled, how.valid_fraction, plan, progress).backbone
        predictor = BackboneEnergies(found)
    else:
        backbone = load_backbone(student.kernel or BackboneSpec())
        fit_plan = how.fit_plan or FitPlan(execution=Execution(device=how.device))
        predictor = fit_kernel(
            labelled, backbone, folder, fit_plan, how.derivatives, progress=progress, device=how.device
        )
        found = predictor.model
    truth = [_truth(atoms, keys) for atoms in held]
    by_teacher, by_student = ([predicted(one, atoms) for atoms in held] for one in (teacher, predictor))
    known = any(labels.energy is not None for labels in truth)
    return DistillReport(
        student=found,
        predictor=predictor,
        labelled=len(labelled),
        sampled=len(sampled),
        to_teacher=errors_between(held, by_student, by_teacher),
        to_truth=errors_between(held, by_student, truth) if known else None,
        teacher_to_truth=errors_between(held, by_teacher, truth) if known else None,
        seconds=timed((teacher, predictor), held),
    )


def _signed(frame: Atoms) -> Atoms:
    """With the package's name, by which it knows the file again."""
    frame.info["labelled_by"] = LABELLED_BY
    return frame


def label(predictor: Predictor, structures: Sequence[Atoms], progress: Progress | None = None) -> list[Example]:
    """Structures with a predictor's energies, forces and, for cells, stress as their labels."""
    found = []
    with shown_progress(progress) as shown:
        shown.stage("label", len(structures))
        for atoms in structures:
            labels = predicted(predictor, atoms, stress=bool(atoms.cell.rank == 3 and atoms.pbc.any()))
            found.append(Example(atoms, labels, structure_hash(atoms, labels)))
            shown.advance()
    return found


def sample_structures(
    predictor: Predictor, starts: Sequence[Atoms], plan: SamplePlan, progress: Progress | None = None
) -> list[Atoms]:
    """Frames of Langevin dynamics from every start; a run ends where forces become too large.

    Raises:
        SimulationError: not a single frame was drawn.
    """
    found: list[Atoms] = []
    with shown_progress(progress) as shown:
        shown.stage("sample", plan.frames * len(starts), "frames")
        for place, start in enumerate(starts):
            found += _run(predictor, start, plan, np.random.default_rng([plan.seed, place]), shown)
    if not found:
        raise SimulationError(
            f"the teacher's dynamics exceeded {plan.largest_force:g} eV/angstrom from every start; lower the "
            "temperature or the time step, or do without sampling"
        )
    return found


def _run(
    predictor: Predictor, start: Atoms, plan: SamplePlan, generator: np.random.Generator, progress: Progress
) -> list[Atoms]:
    """The frames of one run."""
    found = []
    atoms = bare(start)
    atoms.calc = PredictorCalculator(predictor)
    MaxwellBoltzmannDistribution(atoms, temperature_K=plan.temperature, rng=generator)
    dynamics = Langevin(
        atoms,
        plan.timestep * units.fs,
        temperature_K=plan.temperature,
        friction=plan.friction / units.fs,
        rng=generator,
        fixcm=False,
    )
    for _ in range(plan.frames):
        dynamics.run(plan.every)
        progress.advance()
        if not np.abs(atoms.get_forces()).max() < plan.largest_force:  # NaN too
            break
        found.append(bare(atoms))
    return found


def rattled(structures: Sequence[Atoms], displacement: float, seed: int = 0) -> list[Atoms]:
    """A copy of each, every coordinate displaced by a normal deviate (standard deviation in angstrom)."""
    generator = np.random.default_rng(seed)
    found = [bare(atoms) for atoms in structures]
    for atoms in found:
        atoms.rattle(displacement, rng=generator)
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


def _truth(atoms: Atoms, keys: LabelKeys) -> Labels:
    try:
        return read_labels(atoms, keys)
    except StructureError:
        return Labels(None, None, None)
