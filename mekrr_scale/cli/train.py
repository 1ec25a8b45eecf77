"""``pretrain`` and ``finetune``: the commands that train backbones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mekrr_scale.cli.console import draw, progress_bar, say, show, warn
from mekrr_scale.cli.options import (
    DEFAULT_BACKBONE,
    EXIT_CODES,
    BackboneName,
    Device,
    EnergyKey,
    ForcesKey,
    Format,
    Overwrite,
    StressKey,
    Units,
    backbone_spec,
    check_device,
    commands,
    device_of,
    label_keys,
    named_numbers,
    names,
    same_named,
)
from mekrr_scale.errors import ConfigError
from mekrr_scale.outputs import BACKBONE, FIGURE, REPORT, check_folder, check_outputs, figure_of, write_report
from mekrr_scale.progress import Progress

if TYPE_CHECKING:
    from mekrr_scale.distributed import Checkpoint
    from mekrr_scale.structures import Entry, LabelKeys
    from mekrr_scale.transfer import BlockPlan, Example, TrainPlan, TrainReport

app = commands()

Structures = Annotated[list[Path], typer.Argument(help="labelled structures; files that ASE reads")]
Output = Annotated[Path, typer.Option("--output", "-o", help="checkpoint to write: a backbone for extract and fit")]
Weights = Annotated[str | None, typer.Option(help="version of the pretrained weights")]
Valid = Annotated[list[Path] | None, typer.Option(help="structures to validate on; may be repeated")]
ValidFraction = Annotated[float, typer.Option(help="part of the structures to validate on, without --valid")]
Steps = Annotated[int, typer.Option(help="number of optimisation steps, one batch each")]
BatchSize = Annotated[int, typer.Option("--batch", help="structures in a batch")]
Rate = Annotated[float, typer.Option("--lr", help="learning rate; of the last block where there is a decay")]
Schedule = Annotated[Literal["cosine", "constant"], typer.Option(help="schedule of the learning rate")]
Cycles = Annotated[int, typer.Option(help="cycles of cosine annealing; more than one are warm restarts")]
Warmup = Annotated[float, typer.Option(help="part of the steps in which the rate rises")]
EnergyWeight = Annotated[float, typer.Option(help="weight of the squared error of the energy, (eV/atom)^2")]
ForceWeight = Annotated[float, typer.Option(help="weight of the squared error of the forces, (eV/angstrom)^2")]
StressWeight = Annotated[float, typer.Option(help="weight of the squared error of the stress, (eV/angstrom^3)^2")]
Huber = Annotated[float | None, typer.Option(help="errors above this count by their absolute value")]
WeightDecay = Annotated[float, typer.Option(help="decoupled weight decay")]
Average = Annotated[float, typer.Option(help="decay of the moving average of the weights; 0 for none")]
Patience = Annotated[int, typer.Option(help="validations without progress before an early stop; 0 for none")]
ValidateEvery = Annotated[int | None, typer.Option(help="steps between validations; default: ten to forty in all")]
State = Annotated[Path | None, typer.Option(help="folder for the state of the training; default: beside the output")]
StateInterval = Annotated[float, typer.Option(help="seconds between states")]
Plot = Annotated[Path | None, typer.Option(help="figure of losses, errors and rate")]
Json = Annotated[Path | None, typer.Option("--json", help="write the history as JSON")]
Seed = Annotated[int, typer.Option(help="random seed of new weights and of the order of batches")]


@app.command(epilog=EXIT_CODES)
def pretrain(
    structures: Structures,
    output: Output,
    backbone: BackboneName = "schnet",
    sizes: Annotated[
        str | None, typer.Option(help="sizes of schnet or dimenet++, e.g. hidden_channels=128,cutoff=6")
    ] = None,
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
    overwrite: Overwrite = False,
) -> None:
    """Train a backbone from scratch on energies, forces and stress. Resumes: run the same command again.

    Examples:

        mekrr-scale pretrain si.xyz -o si.pt --steps 3000 --plot si.png

        mekrr-scale pretrain si.xyz -o si.pt --backbone dimenet++ --sizes num_blocks=3,cutoff=6
    """
    from mekrr_scale.backbones import new_backbone
    from mekrr_scale.transfer import pretrain

    plan = _train_plan(locals())

    outputs = Outputs(output, figure_of(plot), json_file, state or Path(f"{output}.state"), state_interval)
    outputs.check([*structures, *(valid or []), checkpoint], overwrite)
    chosen = new_backbone(backbone_spec(backbone, weights, checkpoint), named_numbers("--sizes", sizes))
    chosen.to(device_of(device))
    keys = label_keys(energy_key, forces_key, stress_key, units)
    training, validation = training_sets(structures, valid, valid_fraction, keys, format)
    _trained(lambda bar, kept: pretrain(chosen, training, validation, plan, bar, kept), outputs, plan, len(training))


@app.command(epilog=EXIT_CODES)
def finetune(
    structures: Structures,
    output: Output,
    backbone: BackboneName = DEFAULT_BACKBONE,
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
    overwrite: Overwrite = False,
) -> None:
    """Go on training a backbone on other data. Resumes: run the same command again.

    Per-species energies are fitted again to what the source leaves of the training energies.

    Examples:

        mekrr-scale finetune hcoo.xyz -o hcoo.pt --freeze-up-to conv2

        mekrr-scale finetune ccsdt.xyz -o ccsdt.pt --lr 3e-4 --lr-decay 0.3 --force-weight 0

        mekrr-scale finetune ge.xyz -o ge.pt --backbone schnet --checkpoint si.pt --species-map Si:Ge
    """
    from mekrr_scale.backbones import load_backbone
    from mekrr_scale.transfer import finetune

    plan, entry = finetune_plan(**locals())

    outputs = Outputs(output, figure_of(plot), json_file, state or Path(f"{output}.state"), state_interval)
    outputs.check([*structures, *(valid or []), checkpoint], overwrite)
    chosen = load_backbone(backbone_spec(backbone, weights, checkpoint))
    plan.blocks.learning_rates(list(chosen.blocks()), lr)  # a misspelt block is told before structures are read
    chosen.to(device_of(device))
    keys = label_keys(energy_key, forces_key, stress_key, units)
    training, validation = training_sets(structures, valid, valid_fraction, keys, format)
    _trained(
        lambda bar, kept: finetune(chosen, training, validation, plan, entry, bar, kept), outputs, plan, len(training)
    )


def finetune_plan(**given: Any) -> tuple[TrainPlan, Entry]:
    """The plans that options say: what a batch job would refuse only when its turn has come.

    Raises:
        ConfigError, StructureError: a text that says nothing, or a value outside its range.
        BackboneError: no such backbone.
    """
    from mekrr_scale.backbones import packages_of
    from mekrr_scale.structures import Entry, parse_species_map
    from mekrr_scale.transfer import BlockPlan

    rates = named_numbers("--lr-map", given["lr_map"])
    learning, fresh = names(given["train_blocks"]), names(given["reset"])
    blocks = BlockPlan(learning, given["freeze_up_to"], rates, given["lr_decay"], fresh)
    label_keys(None, None, None, given["units"])
    check_device(given["device"])
    if not given["valid"] and not 0 < given["valid_fraction"] < 1:
        raise ConfigError(f"--valid-fraction {given['valid_fraction']:g}: write a part of the structures, such as 0.1")
    packages_of(backbone_spec(given["backbone"]).name)
    return _train_plan(given, blocks), Entry(given["length_scale"], parse_species_map(given["species_map"]))


def _train_plan(given: Mapping[str, Any], blocks: BlockPlan | None = None) -> TrainPlan:
    from mekrr_scale.transfer import BlockPlan, TrainPlan

    return TrainPlan(**same_named(TrainPlan, given), learning_rate=given["lr"], blocks=blocks or BlockPlan())


def training_sets(
    structures: list[Path], valid: list[Path] | None, fraction: float, keys: LabelKeys, format: str | None
) -> tuple[list[Example], list[Example]]:
    """Training and validation set, without structures in both."""
    from mekrr_scale.structures import read_structures
    from mekrr_scale.transfer import read_examples, split

    training = read_examples(read_structures(structures, format), keys)
    if not valid:
        return split(training, fraction)
    validation = read_examples(read_structures(valid, format), keys, "validation")
    held = {example.id for example in validation}
    common = sum(example.id in held for example in training)
    if common:
        warn(f"{common} training structures are in the validation set too")
    return training, validation


@dataclass(frozen=True)
class Outputs:
    """What a training writes, and where its state is until all is written."""

    backbone: Path
    plot: Path | None
    json: Path | None
    state: Path
    interval: float  # seconds between states

    def check(self, inputs: Sequence[Path | None], overwrite: bool) -> None:
        """Before any work.

        Raises:
            ConfigError: a file that cannot or must not be written.
        """
        outputs = [(self.backbone, BACKBONE, "--output"), (self.plot, FIGURE, "--plot"), (self.json, REPORT, "--json")]
        check_outputs(outputs, inputs, overwrite)
        check_folder(self.state, "--state")


def _trained(
    training: Callable[[Progress, Checkpoint], TrainReport], outputs: Outputs, plan: TrainPlan, n_training: int
) -> None:
    """Train, and write."""
    from mekrr_scale.distributed import Checkpoint, StopSignals

    with StopSignals() as stop, progress_bar("steps") as bar:
        kept = Checkpoint(outputs.state, {}, interval=outputs.interval, stop=stop)
        kept.begin()
        report = training(bar, kept)
    deliver(report, outputs, plan, n_training)
    kept.clear()


def deliver(report: TrainReport, outputs: Outputs, plan: TrainPlan, n_training: int) -> None:
    """Tables, figures and the checkpoint."""
    from mekrr_scale.backbones import save_backbone
    from mekrr_scale.report import training_plot, training_table

    show(training_table(report))
    figures = {
        "steps": report.steps,
        "training_structures": n_training,
        "best_step": report.best.step,
        "errors": {key: value for key, value in asdict(report.best.errors).items() if not math.isnan(value)},
        "plan": json.loads(json.dumps(asdict(plan))),
    }
    save_backbone(report.backbone, outputs.backbone, figures, overwrite=True)
    draw(outputs.plot, lambda path: training_plot(path, report, overwrite=True))
    write_report(outputs.json, {**figures, "history": [asdict(record) for record in report.history]})
    stopped = ", stopped early" if report.steps < plan.steps else ""
    say(
        f"backbone {outputs.backbone}: {report.steps} steps{stopped}, best at step {report.best.step}: "
        f"{report.best.errors}\nnext: mekrr-scale extract STRUCTURES -o features --backbone "
        f"{report.backbone.name} --checkpoint {outputs.backbone}"
    )
