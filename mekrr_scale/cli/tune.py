"""``tune``: structures to the best model that a time allows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mekrr_scale.cli.console import progress_bar, say, show
from mekrr_scale.cli.extract import derivatives_of, part_of
from mekrr_scale.cli.options import (
    BACKBONES,
    EXIT_CODES,
    Device,
    EnergyKey,
    ForcesKey,
    Format,
    IgnoreCharge,
    StressKey,
    Units,
    backbone_spec,
    commands,
    device_of,
    label_keys,
    prior_spec,
)
from mekrr_scale.errors import ConfigError
from mekrr_scale.outputs import check_folder

if TYPE_CHECKING:
    from mekrr_scale.backbones import BackboneSpec
    from mekrr_scale.tuning import TunePlan

app = commands()


@app.command(epilog=EXIT_CODES)
def tune(
    structures: Annotated[list[Path], typer.Argument(help="labelled structures to learn from")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for model, configuration, figures and tables")],
    test: Annotated[
        list[Path] | None,
        typer.Option(help="structures that errors are reported on; may be repeated. Default: a part is held out"),
    ] = None,
    budget: Annotated[str, typer.Option(help="time for everything, e.g. 5m, 30m, 2h")] = "30m",
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            help="network that races, its layer and invariants behind colons; may be repeated. Default: all that are "
            "installed with weights",
            autocompletion=BACKBONES,
        ),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="version of the pretrained weights, with one --backbone")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="file of the weights, with one --backbone")] = None,
    derivatives: Annotated[
        str, typer.Option(help="to learn forces: auto, all, none, or directions per structure")
    ] = "auto",
    strain: Annotated[
        Literal["auto", "yes", "no"], typer.Option(help="learn stress; auto: where most have one")
    ] = "auto",
    landmarks: Annotated[int, typer.Option(help="landmarks at most")] = 4000,
    validate: Annotated[int, typer.Option(help="folds of the cross-validation")] = 5,
    test_share: Annotated[float, typer.Option(help="part that is held out without --test; 0 for none")] = 0.1,
    prior: Annotated[
        str | None, typer.Option(help="what a model may correct: a model, a trained backbone, chgnet, or labels")
    ] = None,
    group_key: Annotated[str | None, typer.Option(help="info key of the trajectory, kept together in folds")] = None,
    on_duplicate: Annotated[
        Literal["error", "newest"], typer.Option(help="where labels of one geometry differ: error, or take the last")
    ] = "error",
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    units: Units = "eV,angstrom,eV/A^3",
    format: Format = None,
    part: Annotated[str, typer.Option(help="i/n: race the i-th of n parts of the candidates, and stop")] = "1/1",
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="random seed of subsets, directions and landmarks")] = 0,
    ignore_charge: IgnoreCharge = False,
) -> None:
    """Structures to the best model that a time allows. Resumes: run the same command again.

    Networks, layers and invariants race on growing subsets; features of everything are made with the winner; kernel and
    landmarks are chosen by cross-validation; the model is fitted, calibrated and tested.

    Examples:

        mekrr-scale tune train.xyz --test test.xyz -o tuned --budget 30m

        mekrr-scale tune md.xyz -o tuned --backbone sevennet --budget 2h
    """
    from mekrr_scale.structures import require_file
    from mekrr_scale.tuning import tune

    check_folder(output, "--output")
    for path in (*structures, *(test or [])):
        require_file(path)
    plan = check_plan(
        **{name: value for name, value in locals().items() if name not in ("tune", "path", "require_file")}
    )
    device_of(device)
    with progress_bar() as bar:
        report = tune(structures, output, plan, test or None, bar)
    if report is None:
        say(f"part {part} done; when all parts are: the same command without --part")
        return
    from mekrr_scale.report import dressed

    for table in report.tables():
        show(dressed(table))
    show(report.words())
    say(report.headline())


def check_plan(
    *,
    budget: str,
    backbone: Sequence[str] | None,
    weights: str | None,
    checkpoint: Path | None,
    derivatives: str,
    strain: Literal["auto", "yes", "no"],
    landmarks: int,
    validate: int,
    test_share: float,
    prior: str | None,
    group_key: str | None,
    on_duplicate: Literal["error", "newest"],
    energy_key: str | None,
    forces_key: str | None,
    stress_key: str | None,
    units: str,
    format: str | None,
    part: str,
    device: str,
    seed: int,
    ignore_charge: bool = False,
    **_: object,
) -> TunePlan:
    """The plan that options say.

    Raises:
        ConfigError: an option outside its range.
    """
    from mekrr_scale.tuning import TunePlan

    return TunePlan(
        budget=budget,
        backbones=_backbones(backbone, weights, checkpoint),
        derivatives="auto" if derivatives == "auto" else derivatives_of(derivatives),
        strain="auto" if strain == "auto" else strain == "yes",
        landmarks=landmarks,
        folds=validate,
        test_share=test_share,
        keys=label_keys(energy_key, forces_key, stress_key, units),
        prior=None if prior is None else prior_spec(prior, None, 1.0),
        group_key=group_key,
        format=format,
        on_duplicate=on_duplicate,
        device=device,
        part=part_of(part),
        seed=seed,
        ignore_charge=ignore_charge,
    )


def _backbones(
    names: Sequence[str] | None, weights: str | None, checkpoint: Path | None
) -> tuple[BackboneSpec, ...] | None:
    if not names:
        if weights is not None or checkpoint is not None:
            raise ConfigError("--weights and --checkpoint are of a network; name it with --backbone")
        return None
    if len(names) > 1 and (weights is not None or checkpoint is not None):
        raise ConfigError("--weights and --checkpoint are of one network; give one --backbone with them")
    return tuple(backbone_spec(name, weights, checkpoint) for name in names)
