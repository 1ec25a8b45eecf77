"""``extract``: structures to a feature store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mekrr_scale.cli.console import progress_bar, say, show, warn
from mekrr_scale.cli.job import job
from mekrr_scale.cli.options import (
    CHOICE,
    DEFAULT_BACKBONE,
    EXIT_CODES,
    BackboneName,
    Basis,
    Compress,
    Device,
    EnergyKey,
    ForcesKey,
    Format,
    IgnoreCharge,
    Invariants,
    Layer,
    Residual,
    StressKey,
    Timeout,
    Units,
    Workers,
    backbone_spec,
    check_device,
    commands,
    device_of,
    label_keys,
    prior_spec,
    same_named,
)
from mekrr_scale.errors import ConfigError
from mekrr_scale.files import parse_bytes, split_frames
from mekrr_scale.progress import Silent
from mekrr_scale.version import __version__

if TYPE_CHECKING:
    from mekrr_scale.distributed import Group
    from mekrr_scale.pipeline import ExtractPlan, ExtractReport

app = commands()


@app.command(epilog=EXIT_CODES)
def extract(
    structures: Annotated[
        list[Path], typer.Argument(help=f"files that ASE reads, and others; .xz, .gz and .bz2 too{CHOICE}")
    ],
    store: Annotated[Path, typer.Option("--store", "-o", help="folder of the store")],
    backbone: BackboneName = DEFAULT_BACKBONE,
    layer: Layer = None,
    invariants: Invariants = None,
    weights: Annotated[str | None, typer.Option(help="version of the pretrained weights (chgnet, sevennet)")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="file of the weights, e.g. of `finetune`")] = None,
    max_neighbors: Annotated[int | None, typer.Option(help="cap on neighbours (schnet, dimenet++); 0 for none")] = None,
    derivatives: Annotated[str, typer.Option(help="train on forces: all, none, or directions per structure")] = "none",
    strain: Annotated[bool, typer.Option(help="train on stress: tangents along the six strains")] = False,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    units: Units = "eV,angstrom,eV/A^3",
    part: Annotated[str, typer.Option(help="i/n: do the i-th of n parts, e.g. one per job of an array")] = "1/1",
    shard_size: Annotated[str, typer.Option(help="features per shard at most")] = "32M",
    shard_work: Annotated[
        int, typer.Option(help="atoms x (1 + 3 directions) per shard at most: what a kill can lose; 0 for any")
    ] = 160_000,
    dtype: Annotated[Literal["float32", "float64"], typer.Option(help="precision of the features")] = "float32",
    tangent_dtype: Annotated[
        Literal["auto", "same", "float16"],
        typer.Option(
            help="precision of the tangents: float16 halves the store, same as the features; auto: as begun, or float16"
        ),
    ] = "auto",
    compress: Compress = None,
    residual: Residual = None,
    basis: Basis = "species",
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
    prior_units: Annotated[str, typer.Option(help="units of prior 'labels', as --units")] = "eV,angstrom,eV/A^3",
    group_key: Annotated[str | None, typer.Option(help="info key of the trajectory, kept together in folds")] = None,
    config_key: Annotated[
        str, typer.Option(help="info key of the configuration type, by which fit --weight weighs frames")
    ] = "config_type",
    on_duplicate: Annotated[
        Literal["error", "newest", "keep"],
        typer.Option(help="where labels of one geometry differ between files: error, take the newest, or keep all"),
    ] = "error",
    unlabelled: Annotated[bool, typer.Option(help="take structures without an energy too")] = False,
    ignore_charge: IgnoreCharge = False,
    format: Format = None,
    device: Device = "cpu",
    workers: Workers = None,
    seed: Annotated[int, typer.Option(help="random seed of the directions")] = 0,
    timeout: Timeout = 1800.0,
) -> None:
    """Structures to a feature store. Resumes: run the same command again after a kill.

    Examples:

        mekrr-scale extract train.xyz.xz -o features

        mekrr-scale extract md.traj -o features --derivatives 8 --units kcal/mol

        mekrr-scale extract train.xyz -o features --backbone sevennet --invariants norms

        mekrr-scale extract train.xyz -o features --derivatives all --compress 128

        mekrr-scale extract big.xyz -o features --part 3/16   # then: store finalize

        torchrun --nproc-per-node 4 -m mekrr_scale extract big.xyz -o features --device cuda
    """
    plan = extract_plan(**locals())
    if prior is not None:
        theirs = label_keys(prior_energy_key, prior_forces_key, None, prior_units)
        plan = replace(plan, prior=prior_spec(prior, prior_species_map, prior_length_scale, theirs))
    device_of(device)
    with job(timeout) as group:
        report = _extract(structures, store, plan, group)
    _tell(report, store, part)


def _extract(structures: list[Path], store: Path, plan: ExtractPlan, group: Group) -> ExtractReport:
    """The part of this rank, on its own device; together the ranks make what one process would."""
    import torch

    from mekrr_scale.pipeline import extract
    from mekrr_scale.store import FeatureStore, finalize

    if group.size == 1:
        with progress_bar() as bar:
            return extract(structures, store, plan, progress=bar)
    group.require_alike(
        version=__version__,
        plan=repr(plan),
        structures=" ".join(f"{path.name} of {split_frames(path)[0].stat().st_size} bytes" for path in structures),
        store=store.name,
    )
    index, count = plan.part
    device = f"cuda:{group.local_rank % torch.cuda.device_count()}" if plan.device == "cuda" else plan.device
    own = replace(plan, part=((index - 1) * group.size + group.rank + 1, count * group.size), device=device)
    with progress_bar(shown=group.rank == 0) as bar:
        report = extract(structures, store, own, progress=bar if group.rank == 0 else Silent())
    report.written, report.resumed = group.sum(torch.tensor([report.written, report.resumed])).tolist()
    if count == 1:
        group.barrier()
        if group.rank == 0:
            report.warnings += finalize(store, plan.policy, allow_incomplete=True).remarks
        group.barrier()
        report.store = FeatureStore(store)
    return report


def _tell(report: ExtractReport, store: Path, part: str) -> None:
    rejected = report.n_rejected
    say(f"{report.written} structures written, {report.resumed} were there already, {rejected} rejected")
    for reason, count in report.rejected.most_common(3):
        show(f"  {count} x {reason}")
    if rejected:
        show(f"  all rejects: {store}/rejects*.jsonl")
    for warning in report.warnings:
        warn(warning)
    if report.store is None:
        say(f"part {part} done; when all parts are: mekrr-scale store finalize {store}")
    else:
        found = report.store
        say(
            f"store {store}: {found.n_structures} structures, {found.n_atoms} atoms, {found.n_directions} directions, "
            f"{len(found.shards)} shards"
        )


def extract_plan(**given: Any) -> ExtractPlan:
    """The plan that options say, but for the prior: what a batch job would refuse only when its turn has come.

    Raises:
        ConfigError, StructureError: a text that says nothing, or a value outside its range.
        BackboneError: no such backbone.
    """
    from mekrr_scale.backbones import packages_of
    from mekrr_scale.pipeline import ExtractPlan

    network = (given[name] for name in ("backbone", "weights", "checkpoint", "layer", "max_neighbors", "invariants"))
    keys = (given[name] for name in ("energy_key", "forces_key", "stress_key", "units"))
    of_prior = ("prior_species_map", "prior_energy_key", "prior_forces_key")
    if given["prior"] is None and (any(given[name] for name in of_prior) or given["prior_length_scale"] != 1.0):
        raise ConfigError("options of a prior without a prior; name one with --prior")
    label_keys(None, None, None, given["prior_units"])
    check_device(given["device"])
    told = same_named(ExtractPlan, given) | {
        "backbone": backbone_spec(*network),
        "keys": label_keys(*keys),
        "derivatives": derivatives_of(given["derivatives"]),
        "part": part_of(given["part"]),
        "shard_bytes": parse_bytes(given["shard_size"]),
        "need_energy": not given["unlabelled"],
        "prior": None,
    }
    plan = ExtractPlan(**told)
    packages_of(plan.backbone.name)
    return plan


def derivatives_of(text: str) -> int | Literal["all", "none"]:
    """What ``--derivatives`` says.

    Raises:
        ConfigError: neither a word nor a number.
    """
    if text == "all":
        return "all"
    if text == "none":
        return "none"
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--derivatives {text!r}: write all, none, or a number of directions, e.g. 8") from None


def part_of(text: str) -> tuple[int, int]:
    """What ``--part`` says.

    Raises:
        ConfigError: not two numbers.
    """
    try:
        index, count = (int(piece) for piece in text.split("/"))
    except ValueError:
        raise ConfigError(f"--part {text!r}: write i/n, e.g. 3/16") from None
    return index, count
