"""The commands that train backbones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from mekrr_scale.backbones import load_backbone, new_backbone, save_backbone
from mekrr_scale.cli.console import EXIT_CODES, Bar, errors, out
from mekrr_scale.cli.options import (
    Device,
    EnergyKey,
    ForcesKey,
    Format,
    StressKey,
    Units,
    backbone_spec,
    check_folder,
    device_of,
    named_numbers,
    names,
)
from mekrr_scale.distributed import Checkpoint, StopSignals
from mekrr_scale.priors import Entry, parse_species_map
from mekrr_scale.report import training_plot, training_table
from mekrr_scale.structures import LabelKeys, read_structures
from mekrr_scale.transfer import (
    BlockPlan,
    Example,
    TrainPlan,
    TrainReport,
    read_examples,
    split,
)
from mekrr_scale.transfer import finetune as finetune_backbone
from mekrr_scale.transfer import pretrain as pretrain_backbone

train_app = typer.Typer()

Structures = Annotated[list[Path], typer.Argument(help="labelled structures; files that ASE reads")]
Output = Annotated[Path, typer.Option("--output", "-o", help="checkpoint to write: a backbone for extract and fit")]
Name = Annotated[str, typer.Option("--backbone", help="see `mekrr-scale backbones`")]
Weights = Annotated[str | None, typer.Option(help="version of the pretrained weights")]
Valid = Annotated[list[Path] | None, typer.Option(help="structures to validate on; may be repeated")]
ValidFraction = Annotated[float, typer.Option(help="part of the structures to validate on, without --valid")]
Steps = Annotated[int, typer.Option(help="of gradient descent, one batch each")]
BatchSize = Annotated[int, typer.Option("--batch", help="structures in a batch")]
Rate = Annotated[float, typer.Option("--lr", help="learning rate; of the last block where there is a decay")]
Schedule = Annotated[Literal["cosine", "constant"], typer.Option(help="of the learning rate")]
Cycles = Annotated[int, typer.Option(help="of cosine annealing; more than one are warm restarts")]
Warmup = Annotated[float, typer.Option(help="part of the steps in which the rate rises")]
EnergyWeight = Annotated[float, typer.Option(help="of the squared error of the energy, (eV/atom)^2")]
ForceWeight = Annotated[float, typer.Option(help="of the squared error of the forces, (eV/angstrom)^2")]
StressWeight = Annotated[float, typer.Option(help="of the squared error of the stress, (eV/angstrom^3)^2")]
Huber = Annotated[float | None, typer.Option(help="errors above this count by their absolute value")]
WeightDecay = Annotated[float, typer.Option(help="decoupled weight decay")]
Average = Annotated[float, typer.Option(help="decay of the moving average of the weights; 0 for none")]
Patience = Annotated[int, typer.Option(help="validations without progress before an early stop; 0 for none")]
ValidateEvery = Annotated[int | None, typer.Option(help="steps between validations; default: ten to forty in all")]
State = Annotated[Path | None, typer.Option(help="folder for the state of the training; default: beside the output")]
StateInterval = Annotated[float, typer.Option(help="seconds between states")]
Plot = Annotated[Path | None, typer.Option(help="figure of losses, errors and rate")]
Json = Annotated[Path | None, typer.Option("--json", help="write the history as JSON")]
Seed = Annotated[int, typer.Option(help="of new weights and the order of batches")]


@train_app.command(epilog=EXIT_CODES)
def pretrain(
    structures: Structures,
    output: Output,
    backbone: Name = "schnet",
    sizes: Annotated[str | None, typer.Option(help="of schnet or dimenet++, e.g. hidden_channels=128,cutoff=6")] = None,
    weights: Weights = None,
    checkpoint: Annotated[Path | None, typer.Option(help="file whose architecture is taken (sevennet, mace)")] = None,
    valid: Valid = None,
    valid_fraction: ValidFraction = 0.1,
    steps: Steps = 2000,
    batch: BatchSize = 4,
    lr: Rate = 2e-3,
    schedule: Schedule = "cosine",
    cycles: Cycles = 1,
    warmup: Warmup = 0.05,
    energy_weight: EnergyWeight = 10.0,
    force_weight: ForceWeight = 1.0,
    stress_weight: StressWeight = 100.0,
    huber: Huber = None,
    weight_decay: WeightDecay = 0.0,
    average: Average = 0.99,
    patience: Patience = 0,
    validate_every: ValidateEvery = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    units: Units = "eV,angstrom,eV/A^3",
    format: Format = None,
    state: State = None,
    state_interval: StateInterval = 300.0,
    plot: Plot = None,
    json_file: Json = None,
    device: Device = "cpu",
    seed: Seed = 0,
) -> None:
    """Train a backbone from scratch on energies, forces and stress. Resumes: run the same command again.

    Examples:

        mekrr-scale pretrain si.xyz -o si.pt --steps 3000 --plot si.png

        mekrr-scale pretrain si.xyz -o si.pt --backbone dimenet++ --sizes num_blocks=3,cutoff=6
    """
    _check_outputs(output, plot, json_file)
    plan = TrainPlan(
        steps, batch, lr, BlockPlan(), schedule, warmup, cycles, energy_weight, force_weight, stress_weight, huber,
        weight_decay, average, patience, validate_every, seed,
    )  # fmt: skip
    chosen = new_backbone(backbone_spec(backbone, weights, checkpoint), named_numbers("--sizes", sizes))
    chosen.to(device_of(device))
    keys = LabelKeys(energy_key, forces_key, stress_key, **LabelKeys.parse_units(units))
    training, validation = training_sets(structures, valid, valid_fraction, keys, format)
    _run(
        lambda bar, kept: pretrain_backbone(chosen, training, validation, plan, bar, kept),
        plan, output, plot, json_file, len(training), state or Path(f"{output}.state"), state_interval,
    )  # fmt: skip


@train_app.command(epilog=EXIT_CODES)
def finetune(
    structures: Structures,
    output: Output,
    backbone: Name = "chgnet",
    weights: Weights = None,
    checkpoint: Annotated[Path | None, typer.Option(help="file of the weights to start from")] = None,
    train_blocks: Annotated[str | None, typer.Option(help="blocks that learn, e.g. conv3,readout")] = None,
    freeze_up_to: Annotated[str | None, typer.Option(help="this block and those before it do not learn")] = None,
    lr_map: Annotated[
        str | None, typer.Option(help="rates of blocks, e.g. embedding=0,interactions=1e-5,readout=3e-4")
    ] = None,
    lr_decay: Annotated[float, typer.Option(help="factor of the rate from each block to the one before it")] = 1.0,
    reset: Annotated[str | None, typer.Option(help="blocks that start from new random weights, e.g. readout")] = None,
    species_map: Annotated[
        str | None, typer.Option(help="source:target, e.g. Si:Ge: copies what the network knows of an element")
    ] = None,
    length_scale: Annotated[
        float, typer.Option(help="geometries are multiplied by it before the network sees them, e.g. 0.949")
    ] = 1.0,
    valid: Valid = None,
    valid_fraction: ValidFraction = 0.1,
    steps: Steps = 1000,
    batch: BatchSize = 4,
    lr: Rate = 3e-4,
    schedule: Schedule = "cosine",
    cycles: Cycles = 1,
    warmup: Warmup = 0.05,
    energy_weight: EnergyWeight = 10.0,
    force_weight: ForceWeight = 1.0,
    stress_weight: StressWeight = 100.0,
    huber: Huber = None,
    weight_decay: WeightDecay = 0.0,
    average: Average = 0.99,
    patience: Patience = 0,
    validate_every: ValidateEvery = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    units: Units = "eV,angstrom,eV/A^3",
    format: Format = None,
    state: State = None,
    state_interval: StateInterval = 300.0,
    plot: Plot = None,
    json_file: Json = None,
    device: Device = "cpu",
    seed: Seed = 0,
) -> None:
    """Go on training a backbone on other data. Resumes: run the same command again.

    Per-species energies are fitted again to what the source leaves of the training energies.

    Examples:

        mekrr-scale finetune hcoo.xyz -o hcoo.pt --freeze-up-to conv2

        mekrr-scale finetune ccsdt.xyz -o ccsdt.pt --lr 3e-4 --lr-decay 0.3 --force-weight 0

        mekrr-scale finetune ge.xyz -o ge.pt --backbone schnet --checkpoint si.pt --species-map Si:Ge
    """
    _check_outputs(output, plot, json_file)
    blocks = BlockPlan(names(train_blocks), freeze_up_to, named_numbers("--lr-map", lr_map), lr_decay, names(reset))
    plan = TrainPlan(
        steps, batch, lr, blocks, schedule, warmup, cycles, energy_weight, force_weight, stress_weight, huber,
        weight_decay, average, patience, validate_every, seed,
    )  # fmt: skip
    entry = Entry(length_scale, parse_species_map(species_map))
    chosen = load_backbone(backbone_spec(backbone, weights, checkpoint))
    blocks.learning_rates(list(chosen.blocks()), lr)  # a misspelt block is told before structures are read
    chosen.to(device_of(device))
    keys = LabelKeys(energy_key, forces_key, stress_key, **LabelKeys.parse_units(units))
    training, validation = training_sets(structures, valid, valid_fraction, keys, format)
    _run(
        lambda bar, kept: finetune_backbone(chosen, training, validation, plan, entry, bar, kept),
        plan, output, plot, json_file, len(training), state or Path(f"{output}.state"), state_interval,
    )  # fmt: skip


def _run(
    train: Callable[[Bar, Checkpoint], TrainReport],
    plan: TrainPlan,
    output: Path,
    plot: Path | None,
    json_file: Path | None,
    n_training: int,
    state: Path,
    interval: float,
) -> None:
    """Train, with a state that is there until all is written."""
    with StopSignals() as stop, Bar("steps") as bar:
        kept = Checkpoint(state, {}, interval=interval, stop=stop)
        kept.begin()
        report = train(bar, kept)
    _deliver(report, plan, output, plot, json_file, n_training)
    kept.clear()


def _check_outputs(output: Path, plot: Path | None, json_file: Path | None) -> None:
    for path in (output, plot, json_file):
        if path is not None:
            check_folder(path)


def training_sets(
    structures: list[Path], valid: list[Path] | None, fraction: float, keys: LabelKeys, format: str | None
) -> tuple[list[Example], list[Example]]:
    """Training and validation set, without structures in both."""
    training = read_examples(read_structures(structures, format), keys)
    if not valid:
        return split(training, fraction)
    validation = read_examples(read_structures(valid, format), keys, "validation")
    held = {example.id for example in validation}
    common = sum(example.id in held for example in training)
    if common:
        errors.print(f"[yellow]warning:[/] {common} training structures are in the validation set too", highlight=False)
    return training, validation


def _deliver(
    report: TrainReport, plan: TrainPlan, output: Path, plot: Path | None, json_file: Path | None, n_training: int
) -> None:
    """Tables, figures and the checkpoint."""
    out.print(training_table(report))
    told = {
        "steps": report.steps,
        "training_structures": n_training,
        "best_step": report.best.step,
        "errors": {key: value for key, value in asdict(report.best.errors).items() if not math.isnan(value)},
        "plan": json.loads(json.dumps(asdict(plan))),
    }
    save_backbone(report.backbone, output, told)
    if plot is not None:
        training_plot(plot, report)
    if json_file is not None:
        history = [asdict(record) for record in report.history]
        json_file.write_text(json.dumps({**told, "history": history}, indent=2), encoding="utf-8")
    stopped = ", stopped early" if report.steps < plan.steps else ""
    out.print(
        f"backbone {output}: {report.steps} steps{stopped}, best at step {report.best.step}: {report.best.errors}\n"
        f"next: mekrr-scale extract STRUCTURES -o features --backbone {report.backbone.name} --checkpoint {output}",
        highlight=False,
        soft_wrap=True,
    )
