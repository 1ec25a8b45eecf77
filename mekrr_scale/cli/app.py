"""The commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.markup import escape

from mekrr_scale import __version__
from mekrr_scale.backbones import available_backbones, new_backbone
from mekrr_scale.cli.apply import apply_app
from mekrr_scale.cli.console import EXIT_CODES, Bar, JobBar, errors, out
from mekrr_scale.cli.job import job
from mekrr_scale.cli.options import (
    Device,
    EnergyKey,
    ForcesKey,
    Format,
    StressKey,
    Timeout,
    Units,
    backbone_spec,
    candidates,
    device_of,
    numbers,
)
from mekrr_scale.cli.simulate import simulate_app
from mekrr_scale.cli.slurm import slurm_app
from mekrr_scale.cli.store import store_app
from mekrr_scale.cli.train import train_app
from mekrr_scale.cli.transfer import transfer_app
from mekrr_scale.config import load_config, parse_bytes
from mekrr_scale.distributed import Checkpoint, Group, StopSignals
from mekrr_scale.errors import ConfigError
from mekrr_scale.pipeline import ExtractPlan, ExtractReport, FitPlan, FitReport, resources
from mekrr_scale.pipeline import extract as extract_features
from mekrr_scale.pipeline import fit as fit_model
from mekrr_scale.priors import Entry, PriorSpec, parse_species_map
from mekrr_scale.report import block_table, parity_plot, resource_table, trial_table
from mekrr_scale.store import FeatureStore, finalize
from mekrr_scale.structures import LabelKeys, read_structures

app = typer.Typer(
    help="Kernel interatomic potentials on features of pretrained graph networks, at scale.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Add --debug to any command for the traceback of an error.",
)
app.add_typer(store_app, name="store")
app.add_typer(slurm_app, name="slurm")
app.add_typer(train_app)
app.add_typer(transfer_app)
app.add_typer(apply_app)
app.add_typer(simulate_app)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command(epilog=EXIT_CODES)
def extract(
    structures: Annotated[list[Path], typer.Argument(help="files that ASE reads; .xz, .gz and .bz2 too")],
    store: Annotated[Path, typer.Option("--store", "-o", help="folder of the store")],
    backbone: Annotated[str, typer.Option(help="see `mekrr-scale backbones`")] = "chgnet",
    layer: Annotated[str | None, typer.Option(help="after which block features are taken")] = None,
    weights: Annotated[str | None, typer.Option(help="version of the pretrained weights (chgnet, sevennet)")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="file of the weights, e.g. of `finetune`")] = None,
    max_neighbors: Annotated[int | None, typer.Option(help="cap on neighbours (schnet); 0 for none")] = None,
    derivatives: Annotated[str, typer.Option(help="train on forces: all, none, or directions per structure")] = "none",
    strain: Annotated[bool, typer.Option(help="train on stress: tangents along the six strains")] = False,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    units: Units = "eV,angstrom,eV/A^3",
    part: Annotated[str, typer.Option(help="i/n: do the i-th of n parts, e.g. one per job of an array")] = "1/1",
    shard_size: Annotated[str, typer.Option(help="features per shard, and what a kill can lose")] = "32M",
    dtype: Annotated[Literal["float32", "float64"], typer.Option(help="precision of the features")] = "float32",
    tangent_dtype: Annotated[
        Literal["same", "float16"], typer.Option(help="of the tangents; float16 halves the store")
    ] = "same",
    prior: Annotated[
        str | None,
        typer.Option(help="what a fit corrects: a model, a trained backbone, chgnet, sevennet:7net-0, or labels"),
    ] = None,
    prior_species_map: Annotated[
        str | None, typer.Option(help="source:target, e.g. Si:Ge: the structures' Ge is the prior's Si")
    ] = None,
    prior_length_scale: Annotated[
        float, typer.Option(help="geometries are multiplied by it before the prior sees them, e.g. 0.949")
    ] = 1.0,
    prior_energy_key: Annotated[str | None, typer.Option(help="info key of the energies of prior 'labels'")] = None,
    prior_forces_key: Annotated[str | None, typer.Option(help="array key of its forces")] = None,
    prior_units: Annotated[str, typer.Option(help="of prior 'labels', as --units")] = "eV,angstrom,eV/A^3",
    group_key: Annotated[str | None, typer.Option(help="info key of the trajectory, kept together in folds")] = None,
    unlabelled: Annotated[bool, typer.Option(help="take structures without an energy too")] = False,
    format: Format = None,
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="of the random directions")] = 0,
    timeout: Timeout = 1800.0,
) -> None:
    """Structures to a feature store. Resumes: run the same command again after a kill.

    Examples:

        mekrr-scale extract train.xyz.xz -o features

        mekrr-scale extract md.traj -o features --derivatives 8 --units kcal/mol

        mekrr-scale extract big.xyz -o features --part 3/16   # then: store finalize

        torchrun --nproc-per-node 4 -m mekrr_scale extract big.xyz -o features --device cuda
    """
    plan = ExtractPlan(
        backbone=backbone_spec(backbone, weights, checkpoint, layer, max_neighbors),
        keys=LabelKeys(energy_key, forces_key, stress_key, **LabelKeys.parse_units(units)),
        derivatives=_derivatives(derivatives),
        strain=strain,
        part=_part(part),
        shard_bytes=parse_bytes(shard_size),
        dtype=dtype,
        tangent_dtype=tangent_dtype,
        device=device_of(device),
        group_key=group_key,
        need_energy=not unlabelled,
        format=format,
        seed=seed,
        prior=None
        if prior is None
        else PriorSpec.parse(
            prior,
            Entry(prior_length_scale, parse_species_map(prior_species_map)),
            LabelKeys(prior_energy_key, prior_forces_key, None, **LabelKeys.parse_units(prior_units)),
        ),
    )
    if prior is None and (prior_species_map or prior_length_scale != 1.0 or prior_energy_key):
        raise ConfigError("options of a prior without a prior; name one with --prior")
    with job(timeout) as group:
        report = _extract(structures, store, plan, group)
    rejected = report.n_rejected
    out.print(f"{report.written} structures written, {report.resumed} were there already, {rejected} rejected")
    for reason, count in report.rejected.most_common(3):
        out.print(f"  {count} x {reason}", markup=False, highlight=False)
    if rejected:
        out.print(f"  all rejects: {store}/rejects*.jsonl", markup=False, highlight=False)
    for warning in report.warnings:
        errors.print(f"[yellow]warning:[/] {warning}", highlight=False)
    if report.store is None:
        out.print(f"part {part} done; when all parts are: mekrr-scale store finalize {store}", highlight=False)
    else:
        found = report.store
        out.print(
            f"store {store}: {found.n_structures} structures, {found.n_atoms} atoms, {found.n_directions} directions, "
            f"{len(found.shards)} shards",
            highlight=False,
        )


def _extract(structures: list[Path], store: Path, plan: ExtractPlan, group: Group) -> ExtractReport:
    """The part of this rank, on its own device; together the ranks make what one process would."""
    if group.size == 1:
        with Bar() as bar:
            return extract_features(structures, store, plan, progress=bar)
    index, count = plan.part
    device = f"cuda:{group.local_rank % torch.cuda.device_count()}" if plan.device == "cuda" else plan.device
    own = replace(plan, part=((index - 1) * group.size + group.rank + 1, count * group.size), device=device)
    with Bar(shown=group.rank == 0) as bar:
        report = extract_features(structures, store, own, progress=bar)
    report.written, report.resumed = group.sum(torch.tensor([report.written, report.resumed])).tolist()
    if count == 1:
        group.barrier()
        if group.rank == 0:
            finalize(store)
        group.barrier()
        report.store = FeatureStore(store)
    return report


@app.command(epilog=EXIT_CODES)
def fit(
    config: Annotated[Path | None, typer.Argument(help="TOML file; flags below override it")] = None,
    store: Annotated[list[str] | None, typer.Option("--store", "-s", help="store to fit; may be repeated")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="model file to write")] = None,
    solver: Annotated[str | None, typer.Option(help="direct, falkon or exact")] = None,
    landmarks: Annotated[int | None, typer.Option(help="number of landmarks")] = None,
    landmarks_from: Annotated[
        str | None, typer.Option(help="a model whose landmarks are taken too (same backbone)")
    ] = None,
    method: Annotated[str | None, typer.Option(help="uniform, displaced, farthest, leverage or structures")] = None,
    kernel: Annotated[
        str | None, typer.Option(help="gaussian, matern32, matern52, gaussian-sum, linear, polynomial")
    ] = None,
    length_scale: Annotated[str | None, typer.Option(help="candidates, e.g. 2x,4x: times the median distance")] = None,
    alpha: Annotated[
        str | None, typer.Option(help="candidates between 0 (species alike) and 1 (apart), e.g. 0,0.5,1")
    ] = None,
    mixing: Annotated[
        Literal["learn"] | None, typer.Option(help="learn, by cross-validation, how much elements share")
    ] = None,
    store_weight: Annotated[str | None, typer.Option(help="weights of the stores' rows, e.g. 0.01,1")] = None,
    reduce: Annotated[str | None, typer.Option(help="sum (extensive) or mean (per atom, as MEKRR)")] = None,
    standardize: Annotated[str | None, typer.Option(help="none, centre, scale, ...-per-species; candidates")] = None,
    baseline: Annotated[str | None, typer.Option(help="composition, isolated, backbone, prior; candidates")] = None,
    ridge: Annotated[str | None, typer.Option(help="candidates, e.g. 1e-8,1e-6")] = None,
    validate: Annotated[int | None, typer.Option(help="folds of the cross-validation; 0 for none")] = None,
    force_weight: Annotated[str | None, typer.Option(help="candidates for the weight of force rows")] = None,
    structures: Annotated[
        list[Path] | None,
        typer.Option(help="the store's structures: fit their forces without stored tangents (solver falkon)"),
    ] = None,
    device: Annotated[str | None, typer.Option(help="torch device of rows and solvers, e.g. cpu or cuda")] = None,
    memory: Annotated[str | None, typer.Option(help="of each rank for rows that are kept, e.g. 2G")] = None,
    scratch: Annotated[
        str | None, typer.Option(help="folder for rows beyond that; none: make them anew in every pass")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="folder for the state of a long fit; default: beside the model")
    ] = None,
    checkpoint_interval: Annotated[float, typer.Option(help="seconds between states")] = 300.0,
    timeout: Timeout = 1800.0,
    sums: Annotated[
        Path | None, typer.Option(help="folder that keeps the sums of solver direct; shards added later are read alone")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of landmarks and samples")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what the fit would take, and stop")] = False,
    plot: Annotated[Path | None, typer.Option(help="parity plot of the cross-validation")] = None,
) -> None:
    """Fit a model to a store; several candidates are cross-validated and the best one taken.

    Examples:

        mekrr-scale fit --store features -o model.mekrr

        mekrr-scale fit fit.toml --alpha 0,0.5,1 --ridge 1e-9,1e-7,1e-5

        mekrr-scale fit --store features --solver falkon --landmarks 5000

        mekrr-scale fit --store silicon --store germanium --store-weight 0.01,1 --mixing learn

        torchrun --nproc-per-node 4 -m mekrr_scale fit fit.toml --memory 40G
    """
    settings = load_config(
        config,
        {
            "store": store or None,
            "output": output,
            "solver.name": solver,
            "landmarks.count": landmarks,
            "landmarks.method": method,
            "landmarks.model": landmarks_from,
            "kernel.mixing": mixing,
            "store_weight": numbers("--store-weight", store_weight),
            "kernel.name": kernel,
            "kernel.length_scale": candidates("--length-scale", length_scale),
            "kernel.alpha": numbers("--alpha", alpha),
            "kernel.reduce": reduce,
            "kernel.standardize": candidates("--standardize", standardize),
            "baseline.kind": candidates("--baseline", baseline),
            "solver.ridge": numbers("--ridge", ridge),
            "validate": validate,
            "solver.force_weight": numbers("--force-weight", force_weight),
            "solver.device": None if device is None else device_of(device),
            "solver.memory": memory,
            "solver.scratch": scratch,
            "seed": seed,
        },
    )
    plan = settings.plan()
    target = Path(settings.output)
    if not target.parent.is_dir():
        raise ConfigError(f"the folder {target.parent} for the model does not exist; create it first")
    with job(timeout) as group, StopSignals() as stop:
        told = resources(settings.store, plan, group)
        if group.rank == 0:
            out.print(resource_table(told))
        if dry_run:
            return
        kept = Checkpoint(checkpoint or Path(f"{target}.checkpoint"), {}, group, checkpoint_interval, stop)
        kept.begin()
        with Bar("rows", shown=group.rank == 0) as bar:
            frames = read_structures(structures) if structures else None
            shown = JobBar(bar, group) if group.size > 1 else bar
            report = fit_model(settings.store, plan, shown, frames, group=group, checkpoint=kept, sums=sums)
        if group.rank == 0:
            _deliver(report, plan, target, plot)
            kept.clear()


def _deliver(report: FitReport, plan: FitPlan, target: Path, plot: Path | None) -> None:
    """Tables, figures and the model file."""
    if plan.folds:
        out.print(trial_table(report))
    for warning in report.warnings:
        errors.print(f"[yellow]warning:[/] {warning}", highlight=False)
    if plot is not None and len(report.reference):
        parity_plot(plot, folds=(report.reference.numpy(), report.predicted.numpy()), title="cross-validation")
    report.model.save(target)
    mae = report.model.validation.get("energy_mae")
    shown = "" if mae is None else f"; cross-validated energy MAE {1e3 * mae:.2f} meV/atom"
    out.print(f"model {target}: {report.model.landmarks.n_sets} landmarks{shown}", highlight=False)


@app.command(epilog=EXIT_CODES)
def backbones(
    blocks: Annotated[str | None, typer.Option(help="name the blocks of this one, with their parameters")] = None,
    weights: Annotated[str | None, typer.Option(help="version of its pretrained weights")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="file of its weights")] = None,
) -> None:
    """List backbones: which can be used here, and what the others need.

    Examples:

        mekrr-scale backbones

        mekrr-scale backbones --blocks sevennet
    """
    if blocks is not None:
        out.print(block_table(new_backbone(backbone_spec(blocks, weights, checkpoint))))
        return
    for name, usable, note in available_backbones():
        out.print(f"{'[green]yes[/]' if usable else '[red]no[/] '}  [bold]{name}[/]  {escape(note)}", highlight=False)


def _derivatives(text: str) -> int | Literal["all", "none"]:
    if text == "all":
        return "all"
    if text == "none":
        return "none"
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--derivatives {text!r}: write all, none, or a number of directions, e.g. 8") from None


def _part(text: str) -> tuple[int, int]:
    try:
        index, count = (int(piece) for piece in text.split("/"))
    except ValueError:
        raise ConfigError(f"--part {text!r}: write i/n, e.g. 3/16") from None
    return index, count
