"""Frozen transfer of a foundation model, and a cheap student of it.

Radova, Stark, Allen, Maurer and Bartok 2025 (arXiv 2502.15582) fine-tune MACE foundation models with
some of their layers frozen, with a tenth to a fifth of the data that training from scratch needs, and
fit a cheap surrogate to the result. Here CHGNet (its weights come with its wheel) and formate on
Cu(110) (849 frames to learn from, 142 to test): levels of freezing, training from scratch, kernels on
frozen, fine-tuned and random features, a SchNet as the student.

    python -m benchmarks.papers.frozen [--quick]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.papers.common import Experiment, disjoint, errors, parted, ratio, spread, subset, tuned
from mekrr_scale.backbones import Backbone, BackboneEnergies, BackboneSpec, load_backbone, new_backbone, save_backbone
from mekrr_scale.pipeline import FitPlan, LandmarkPlan, Validation
from mekrr_scale.transfer import (
    BlockPlan,
    Example,
    TrainPlan,
    TrainReport,
    finetune,
    fit_kernel,
    label,
    pretrain,
    randomize,
    rattled,
    timed,
)

LEVELS = ("conv1", "conv2", "conv3")  # everything up to this block is frozen
SCRATCH_RATES = {"schnet": (1e-3, 3e-3, 1e-2), "chgnet": (3e-4, 1e-3, 3e-3)}
TUNE_RATES = (2e-3, 6e-3)
STUDENT = {"cutoff": 4.0}  # of a SchNet
STUDENT_RATES = (2e-3, 5e-3)  # 1e-3, tried before, was worse for both students
RATTLE = 0.03  # displacements of what the teacher labels beside the frames, angstrom


def main() -> None:
    it = Experiment.parse("frozen")
    everything = it.structures("hcoo_cu110/train.xyz.xz", "hcoo_cu110/train.xyz.xz")
    test = it.structures("hcoo_cu110/val.xyz.xz", "hcoo_cu110/test.xyz.xz")
    if it.quick:
        everything, test = everything[:8], test[:2]
    disjoint(everything=everything, test=test)
    held, rest = parted(everything, (2 / 8 if it.quick else 24 / len(everything),))
    part = 3 if it.quick else round(0.1 * len(rest))
    it.say(f"{len(rest)} frames to learn from ({part} are 10 %), {len(held)} to validate, {len(test)} to test")
    learners = [_Learner(it, subset(rest, part, seed), rest, held, test, seed) for seed in range(it.seeds)]
    found: dict[str, list[dict[str, float]]] = {}
    for stage in _stages(it, learners):
        runs = it.run_all([(f"{name}-{learner.seed}", learner.ways()[name]) for learner, name in stage])
        for (_, name), run in zip(stage, runs, strict=True):
            found.setdefault(name, []).append(run)
    _tables(it, {name: found[name] for name in learners[0].ways() if name in found}, part, len(rest))
    it.finish()


def _stages(it: Experiment, learners: Sequence[_Learner]) -> Iterator[list[tuple[_Learner, str]]]:
    """Which subset learns in which way, stage by stage: a stage needs the ones before it; the longest run comes first.

    The first subset chooses learning rates and the level of freezing for all; what costs much and
    enters no ratio with a limit runs for it alone.
    """
    first, others = learners[0], learners[1:]
    level, *levels = (f"frozen up to {name}" for name in (LEVELS[-1:] if it.quick else LEVELS))
    everywhere = [
        "scratch CHGNet, the same frames", "student on DFT labels alone",
        "kernel, frozen features", "kernel, random features",
        "scratch SchNet, all frames", "scratch SchNet, the same frames",
    ]  # fmt: skip
    yield [(first, name) for name in (level, *everywhere)]
    yield [
        *((learner, "scratch CHGNet, all frames") for learner in learners),
        *((first, name) for name in (*levels, "fine-tuned, nothing frozen", "student on DFT labels of all frames")),
        *((learner, name) for name in everywhere for learner in others),
    ]
    frozen, last = f"frozen up to {_best_level(it)}", ("distilled student", "kernel, fine-tuned features")
    yield [
        *((first, name) for name in last),
        *((learner, frozen) for learner in others),
        (first, "kernel, features fine-tuned without freezing"),
    ]
    yield [(learner, name) for name in last for learner in others]


def _best_level(it: Experiment) -> str:
    """The level of freezing that the validation set likes best, from the first seed's runs."""
    return LEVELS[-1] if it.quick else min(LEVELS, key=lambda level: it.kept(f"frozen up to {level}-0")["validation"])


@dataclass(frozen=True)
class _Learner:
    """One subset of frames, and the ways to learn from it."""

    it: Experiment
    part: list[Example]
    rest: list[Example]
    held: list[Example]
    test: list[Example]
    seed: int

    def ways(self) -> dict[str, Callable[[], dict[str, float]]]:
        """By name, in the order of the table."""
        return {
            **{f"frozen up to {level}": partial(self._frozen, level) for level in LEVELS},
            "fine-tuned, nothing frozen": partial(self._frozen, None),
            "scratch CHGNet, the same frames": partial(self._scratch, "chgnet", "the same frames"),
            "scratch CHGNet, all frames": partial(self._scratch, "chgnet", "all frames"),
            "scratch SchNet, the same frames": partial(self._scratch, "schnet", "the same frames"),
            "scratch SchNet, all frames": partial(self._scratch, "schnet", "all frames"),
            "kernel, frozen features": partial(self._kernel, "frozen"),
            "kernel, random features": partial(self._kernel, "random"),
            "kernel, fine-tuned features": partial(self._kernel, "fine-tuned"),
            "kernel, features fine-tuned without freezing": partial(self._kernel, "nothing frozen"),
            "distilled student": self._distilled,
            "student on DFT labels alone": partial(self._alone, "the same frames"),
            "student on DFT labels of all frames": partial(self._alone, "all frames"),
        }

    @property
    def steps(self) -> int:
        return 1 if self.it.quick else 1000

    def _plan(self, frozen: str | None = None) -> TrainPlan:
        return TrainPlan(
            steps=self.steps, batch=1, seed=self.seed, validate_every=max(1, self.steps // 5),
            blocks=BlockPlan(freeze_up_to=frozen),
        )  # fmt: skip

    def _frozen(self, level: str | None) -> dict[str, float]:
        first = level == LEVELS[0] and not self.seed  # chooses the rate of all
        rates = self.it.rates(f"frozen up to {LEVELS[0]}", TUNE_RATES, first)
        backbone, rate = self._tuned(
            rates, lambda plan: finetune(load_backbone("chgnet"), self.part, self.held, plan), level
        )
        save_backbone(backbone, self._checkpoint(level))
        held = errors(BackboneEnergies(backbone), self.held)["force_rmse"]
        return {**errors(BackboneEnergies(backbone), self.test), "rate": rate, "validation": held}

    def _tuned(
        self, rates: Sequence[float], train: Callable[[TrainPlan], TrainReport], frozen: str | None = None
    ) -> tuple[Backbone, float]:
        plan = self._plan(frozen)
        return tuned(rates, lambda rate: train(replace(plan, learning_rate=rate)))

    def _scratch(self, name: str, frames: str) -> dict[str, float]:
        # a step of CHGNet costs as much as ten of SchNet's: its rate for all frames is that for few
        chooser = {"schnet": f"scratch SchNet, {frames}", "chgnet": "scratch CHGNet, the same frames"}[name]
        first = not self.seed and chooser.endswith(frames)
        rates = self.it.rates(chooser, SCRATCH_RATES[name], first)
        backbone, rate = self._tuned(
            rates, lambda plan: pretrain(new_backbone(BackboneSpec(name)), self._frames(frames), self.held, plan)
        )
        return {**errors(BackboneEnergies(backbone), self.test), "rate": rate}

    def _frames(self, which: str) -> list[Example]:
        return self.rest if which == "all frames" else self.part

    def _checkpoint(self, level: str | None) -> Path:
        return self.it.folder / f"{level or 'nothing'}-{self.seed}.pt"

    def _tuned_to(self, level: str | None) -> Backbone:
        """The backbone fine-tuned at a level; trained again where only its errors are recorded."""
        path = self._checkpoint(level)
        if not path.exists():
            self._frozen(level)
        return load_backbone("chgnet", checkpoint=str(path))

    def _best(self) -> Backbone:
        return self._tuned_to(_best_level(self.it))

    def _kernel(self, features: str) -> dict[str, float]:
        backbone = {
            "frozen": lambda: load_backbone("chgnet"),
            "random": lambda: randomize(load_backbone("chgnet"), self.seed),
            "fine-tuned": self._best,
            "nothing frozen": lambda: self._tuned_to(None),
        }[features]()
        atoms = sum(len(example.atoms) for example in self.part)
        plan = FitPlan(
            landmarks=LandmarkPlan(count=min(50 if self.it.quick else 1000, atoms)),
            baseline="composition" if self.it.quick else "backbone,composition",
            validation=Validation(folds=3, criterion={"force": 1e-2}, uncertainty=False),
        )  # fmt: skip
        fitted = fit_kernel(self.part, backbone, self.it.work, plan, 2 if self.it.quick else 8)
        return errors(fitted, self.test)

    def _distilled(self) -> dict[str, float]:
        """A SchNet that learns all frames, and displaced copies of them, from the best fine-tuned network."""
        teacher = BackboneEnergies(self._best())
        frames = [example.atoms for example in (self.part if self.it.quick else self.rest)]
        labelled = label(teacher, [*frames, *rattled(frames, RATTLE, self.seed)])
        held, test = (label(teacher, [example.atoms for example in part]) for part in (self.held, self.test))
        rates = self.it.rates("distilled student", STUDENT_RATES, first=not self.seed)
        student, rate = self._student(labelled, held, rates)
        seconds = timed((teacher, student), [example.atoms for example in self.test])
        return {
            **errors(student, self.test),
            "teacher_force_rmse": errors(teacher, self.test)["force_rmse"],
            "to_teacher_force_rmse": errors(student, test)["force_rmse"],
            "speed_up": seconds[0] / seconds[1],
            "rate": rate,
        }

    def _alone(self, which: str) -> dict[str, float]:
        """The same student, as many steps of it, on DFT labels."""
        first = which == "the same frames" and not self.seed  # chooses the rate of all
        rates = self.it.rates("student on DFT labels alone", STUDENT_RATES, first)
        student, rate = self._student(self._frames(which), self.held, rates)
        return {**errors(student, self.test), "rate": rate}

    def _student(
        self, training: list[Example], held: list[Example], rates: Sequence[float]
    ) -> tuple[BackboneEnergies, float]:
        steps = 4 if self.it.quick else 10_000
        plan = TrainPlan(
            steps=steps, batch=4, seed=self.seed, validate_every=max(1, steps // 10),
            huber=0.2, average=0.998, stress_weight=0.0,
        )  # fmt: skip
        backbone, rate = tuned(
            rates,
            lambda rate: pretrain(
                new_backbone(BackboneSpec("schnet"), STUDENT), training, held, replace(plan, learning_rate=rate)
            ),
        )
        return BackboneEnergies(backbone), rate


def _tables(it: Experiment, found: dict[str, list[dict[str, float]]], part: int, whole: int) -> None:
    it.say("\n| | frames with DFT labels | forces, meV/A | energy, meV/atom |\n|---|---|---|---|")
    for name, rows in found.items():
        it.say(f"| {name} | {whole if 'all' in name else part} | {spread(rows)} | {spread(rows, 'energy_rmse')} |")
    best = f"frozen up to {_best_level(it)}"
    it.say(f"\nbest frozen level on the validation set: {best}")
    it.say("\n| ratio of force RMSE | mean (lowest to highest) | limit |\n|---|---|---|")
    for net in ("SchNet", "CHGNet"):
        for frames, limit in (("all frames", "1.25"), ("the same frames", "0.70")):
            told = ratio(found[best], found[f"scratch {net}, {frames}"])
            it.say(f"| {best} / scratch {net}, {frames} | {told} | {limit} |")
    longer = {"all frames": "student on DFT labels of all frames", "the same frames": "student on DFT labels alone"}
    for frames, name in longer.items():
        told = ratio(found[best][: len(found[name])], found[name])
        it.say(f"| {best} / scratch SchNet, {frames}, forty times the structures seen | {told} | |")
    frozen = found["kernel, frozen features"]
    it.say(f"| kernel on fine-tuned / frozen features | {ratio(found['kernel, fine-tuned features'], frozen)} | 0.90 |")
    it.say(f"| kernel on pretrained / random features | {ratio(frozen, found['kernel, random features'])} | 0.60 |")
    students, alone = found["distilled student"], found["student on DFT labels alone"]
    teachers = [{"force_rmse": run["teacher_force_rmse"]} for run in students]
    it.say(f"| distilled student / teacher | {ratio(students, teachers)} | 1.15 |")
    it.say(f"| distilled student / same student on DFT alone | {ratio(students, alone)} | 0.80 |")
    between = spread(students, "to_teacher_force_rmse")
    it.say(f"\nteacher {spread(teachers)}, student to teacher {between} meV/A")
    it.say(f"\nspeed-up of the student {spread(students, 'speed_up')}")


if __name__ == "__main__":
    main()
