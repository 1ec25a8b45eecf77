"""``distill`` and ``curve``: students of teachers, and learning curves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mekrr_scale.cli.console import draw, progress_bar, say, show
from mekrr_scale.cli.frames import read_frames
from mekrr_scale.cli.options import (
    DEFAULT_BACKBONE,
    EXIT_CODES,
    BackboneName,
    Device,
    EnergyKey,
    ForcesKey,
    Format,
    Invariants,
    JsonFile,
    Layer,
    Overwrite,
    Units,
    backbone_names,
    backbone_spec,
    commands,
    device_of,
    label_keys,
    names,
    numbers,
    one_of,
    prior_spec,
)
from mekrr_scale.cli.train import Average, Huber, Valid, ValidFraction, Weights, training_sets
from mekrr_scale.errors import ConfigError
from mekrr_scale.outputs import BACKBONE, LABELLED, MODEL, REPORT, check_folder, check_outputs, write_report

if TYPE_CHECKING:
    from mekrr_scale.backbones import InvariantKind
    from mekrr_scale.models import PriorSpec
    from mekrr_scale.transfer import CurvePlan, DistillReport

app = commands()


def _students() -> list[str]:
    from mekrr_scale.transfer import NETWORKS

    return [*NETWORKS, *(f"kernel:{name}" for name in backbone_names())]


Steps = Annotated[int, typer.Option(help="number of optimisation steps, for networks")]
BatchSize = Annotated[int, typer.Option("--batch", help="structures in a batch, for networks")]
Landmarks = Annotated[int, typer.Option(help="for kernels")]
Derivatives = Annotated[int, typer.Option(help="directions per structure, for kernels")]
EnergyWeight = Annotated[
    float, typer.Option(help="weight of the squared error of the energy, (eV/atom)^2, for networks")
]
ForceWeight = Annotated[
    float, typer.Option(help="weight of the squared error of the forces; 0 to learn energies alone")
]
Seed = Annotated[int, typer.Option(help="random seed of weights, subsets and sampling")]


@app.command(epilog=EXIT_CODES)
def distill(
    teacher: Annotated[str, typer.Option(help="a model, a trained backbone, or a pretrained one such as sevennet")],
    unlabelled: Annotated[list[Path], typer.Option(help="structures to label; may be repeated")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the student: a backbone (.pt) or model (.mekrr)")],
    student: Annotated[
        str,
        typer.Option(
            help="schnet-small, schnet-tiny, dimenet++-small, or kernel:BACKBONE, kernel:BACKBONE:LAYER:INVARIANTS",
            autocompletion=one_of(_students),
        ),
    ] = "schnet-small",
    test: Annotated[list[Path] | None, typer.Option(help="structures to compare on; default: a tenth of them")] = None,
    species_map: Annotated[str | None, typer.Option(help="Si:Ge: the structures' Ge is the teacher's Si")] = None,
    length_scale: Annotated[float, typer.Option(help="geometries are multiplied by it for the teacher")] = 1.0,
    sample_frames: Annotated[int, typer.Option(help="frames of the teacher's dynamics from every structure")] = 0,
    sample_every: Annotated[int, typer.Option(help="steps between them")] = 50,
    temperature: Annotated[float, typer.Option(help="temperature of these dynamics, K")] = 300.0,
    rattle: Annotated[
        float, typer.Option(help="label a copy of every structure, too, with displacements of this size (angstrom)")
    ] = 0.0,
    steps: Steps = 2000,
    batch: BatchSize = 4,
    lr: Annotated[float, typer.Option(help="learning rate, for networks")] = 2e-3,
    energy_weight: EnergyWeight = 10.0,
    huber: Huber = None,
    average: Average = 0.99,
    landmarks: Landmarks = 1000,
    derivatives: Derivatives = 16,
    folder: Annotated[Path | None, typer.Option(help="for the labelled structures; default: beside the output")] = None,
    json_file: JsonFile = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    units: Units = "eV,angstrom,eV/A^3",
    format: Format = None,
    device: Device = "cpu",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """A cheap student of an expensive teacher: label structures, learn the labels, measure error and speed.

    Examples:

        mekrr-scale distill --teacher tuned.mekrr --unlabelled md.xyz --student schnet-small -o student.pt

        mekrr-scale distill --teacher sevennet --unlabelled md.xyz --student kernel:chgnet -o student.mekrr
    """
    from mekrr_scale.models import load_prior
    from mekrr_scale.pipeline import FitPlan, LandmarkPlan
    from mekrr_scale.regression import Execution
    from mekrr_scale.report import distill_table
    from mekrr_scale.transfer import SamplePlan, StudentSpec, TrainPlan, distill

    chosen = StudentSpec.parse(student)
    where = folder or Path(f"{output}.distilled")
    check_folder(where, "--folder")
    check_outputs(
        [
            (output, MODEL if chosen.network is None else BACKBONE, "--output"),
            (json_file, REPORT, "--json"),
            (where / "labelled.xyz" if where.is_dir() else None, LABELLED, ""),
        ],
        [Path(teacher), *unlabelled, *(test or [])],
        overwrite,
    )
    if teacher == "labels":
        raise ConfigError("labels of a file are no teacher; train on them with pretrain, finetune or fit")
    prior = prior_spec(teacher, species_map, length_scale)
    keys = label_keys(energy_key, forces_key, None, units)
    sample = SamplePlan(sample_frames, sample_every, temperature, rattle=rattle, seed=seed)
    plan = TrainPlan(
        steps=steps, batch=batch, learning_rate=lr, energy_weight=energy_weight, huber=huber, average=average, seed=seed
    )
    structures, held = read_frames(unlabelled, format), read_frames(test, format)
    predictor = load_prior(prior.pinned(), device=device_of(device))
    fit_plan = FitPlan(landmarks=LandmarkPlan(count=landmarks), seed=seed, execution=Execution(device=device))
    with progress_bar() as bar:
        report = distill(
            predictor, structures, chosen, where, held, plan, fit_plan, derivatives, sample, keys, bar,
            overwrite=overwrite, device=device,
        )  # fmt: skip
    save_student(report, output, prior)
    show(distill_table(report))
    write_report(json_file, {"teacher": teacher, "student": student, **report.to_dict()})
    say(f"student {output}")


def save_student(report: DistillReport, output: Path, prior: PriorSpec) -> None:
    """A model file, or a backbone that knows its teacher."""
    from mekrr_scale.backbones import save_backbone
    from mekrr_scale.models import Model

    if isinstance(report.student, Model):
        report.student.save(output, overwrite=True)
    else:
        save_backbone(
            report.student, output, {"teacher": prior.to_dict(), "structures": report.labelled}, overwrite=True
        )


@app.command(epilog=EXIT_CODES)
def curve(
    structures: Annotated[list[Path], typer.Argument(help="labelled structures to learn from")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for results, table and figure")],
    test: Annotated[list[Path], typer.Option(help="structures that errors are measured on; may be repeated")],
    valid: Valid = None,
    valid_fraction: ValidFraction = 0.1,
    sizes: Annotated[str, typer.Option(help="numbers of training structures")] = "10,30,100",
    repeats: Annotated[int, typer.Option(help="random subsets of each size")] = 3,
    variants: Annotated[
        str,
        typer.Option(
            help="scratch, scratch:schnet-small, finetune, frozen (each level), frozen:BLOCK, discriminative, "
            "discriminative:0.5, kernel, kernel-finetuned, kernel-finetuned:BLOCK"
        ),
    ] = "scratch,finetune,discriminative,kernel,kernel-finetuned",
    backbone: BackboneName = DEFAULT_BACKBONE,
    weights: Weights = None,
    checkpoint: Annotated[Path | None, typer.Option(help="file of the weights")] = None,
    layer: Layer = None,
    invariants: Invariants = None,
    steps: Steps = 600,
    batch: BatchSize = 4,
    lr: Annotated[str, typer.Option(help="learning rates to choose from")] = "1e-4,3e-4,1e-3",
    energy_weight: EnergyWeight = 10.0,
    force_weight: ForceWeight = 1.0,
    landmarks: Landmarks = 1000,
    derivatives: Derivatives = 8,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    units: Units = "eV,angstrom,eV/A^3",
    format: Format = None,
    seed: Seed = 0,
) -> None:
    """Errors against the number of training structures, for several ways to transfer. Resumes.

    Example:

        mekrr-scale curve train.xyz --test test.xyz -o curve --sizes 10,30
    """
    from mekrr_scale.report import curve_plot, curve_table
    from mekrr_scale.structures import read_structures
    from mekrr_scale.transfer import expanded, read_examples, run_curve

    plan = curve_plan(**locals())
    plan = replace(plan, variants=expanded(plan.variants, plan.backbone))
    keys = label_keys(energy_key, forces_key, None, units)
    check_folder(output, "--output")
    training, validation = training_sets(structures, valid, valid_fraction, keys, format)
    held = read_examples(read_structures(test, format), keys, "test")
    with progress_bar("runs") as bar:
        points = run_curve(training, validation, held, output, plan, bar)
    show(curve_table(points))
    draw(output / "curve.png", lambda path: curve_plot(path, points, overwrite=True))
    say(f"{output}: curve.csv, curve.png")


def curve_plan(
    *,
    sizes: str,
    variants: str,
    repeats: int,
    lr: str,
    steps: int,
    batch: int,
    energy_weight: float,
    force_weight: float,
    landmarks: int,
    derivatives: int,
    seed: int,
    units: str,
    backbone: str,
    weights: str | None,
    checkpoint: Path | None,
    layer: str | None,
    invariants: InvariantKind | None,
    **_: object,
) -> CurvePlan:
    """The plan that options say; ``frozen`` stands for all levels still.

    Raises:
        ConfigError, StructureError: a text that says nothing, or a value outside its range.
        BackboneError: no such backbone.
    """
    from mekrr_scale.backbones import packages_of
    from mekrr_scale.pipeline import FitPlan, LandmarkPlan, Validation
    from mekrr_scale.transfer import CurvePlan, TrainPlan, Variant

    label_keys(None, None, None, units)
    spec = backbone_spec(backbone, weights, checkpoint, layer, invariants=invariants)
    packages_of(spec.name)
    return CurvePlan(
        sizes=tuple(_positive("--sizes", text) for text in names(sizes)),
        variants=tuple(Variant.parse(text) for text in names(variants)),
        backbone=spec,
        repeats=repeats,
        rates=numbers("--lr", lr) or (),
        train=TrainPlan(steps=steps, batch=batch, energy_weight=energy_weight, force_weight=force_weight),
        kernel=FitPlan(landmarks=LandmarkPlan(count=landmarks), validation=Validation(uncertainty=False), seed=seed),
        derivatives=derivatives,
        seed=seed,
    )


def _positive(option: str, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise ConfigError(f"{option} {text!r}: write positive whole numbers separated by commas, e.g. 10,30,100")
    return value
