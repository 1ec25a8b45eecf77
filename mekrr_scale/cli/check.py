"""``check``: is a model physical where it is to be used?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mekrr_scale.cli.console import draw, progress_bar, say, show, warn
from mekrr_scale.cli.frames import start_frames
from mekrr_scale.cli.options import (
    CHOICE,
    EXIT_CODES,
    Device,
    JsonFile,
    ModelFile,
    Overwrite,
    commands,
    device_of,
    one_of,
)
from mekrr_scale.files import split_frames
from mekrr_scale.outputs import FIGURE, REPORT, check_outputs, figure_of, write_report

if TYPE_CHECKING:
    from ase import Atoms

app = commands()

FAILED = 1  # the exit code where a test failed


def _names() -> list[str]:
    from mekrr_scale.checks import CHECKS

    return list(CHECKS)


@app.command(epilog=EXIT_CODES)
def check(
    model: ModelFile,
    structures: Annotated[
        list[Path] | None,
        typer.Argument(
            help=f"structures to check it on, the last frame of each file{CHOICE}; default: the model's own sample"
        ),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            "--test",
            help="name of a test; may be repeated. Default: all but vacancy and surface",
            autocompletion=one_of(_names),
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="values to compare with: TOML (B0 = 88, or tables by structure), or labelled frames"),
    ] = None,
    thresholds: Annotated[Path | None, typer.Option(help="TOML of other thresholds, e.g. bulk_spread = 0.3")] = None,
    backbone: Annotated[bool, typer.Option(help="measure the bare backbone too")] = True,
    plot: Annotated[Path | None, typer.Option(help="page of figures")] = None,
    json: JsonFile = None,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Is a model physical where it is to be used? Elasticity, phonons, smoothness, short dynamics.

    Each test is measured on the model, on the bare backbone and, where given, beside reference values. Ends with exit
    code 1 where one failed. Tests and thresholds: docs/checks.md.

    Examples:

        mekrr-scale check model.mekrr silicon.cif --plot silicon.png

        mekrr-scale check model.mekrr fcc.xyz --test eos --test elastic --reference dft.toml
    """  # fmt: skip
    from mekrr_scale.checks import check, read_references, read_thresholds
    from mekrr_scale.models import Model

    plot = figure_of(plot)
    inputs = [model, reference, thresholds, *(structures or [])]
    check_outputs([(plot, FIGURE, "--plot"), (json, REPORT, "--json")], inputs, overwrite)
    loaded, limits, known = Model.load(model), read_thresholds(thresholds), read_references(reference)
    named = {name: atoms for path in structures or [] for name, atoms in _named(path, structures or [])}
    with progress_bar("checks") as bar:
        found = check(loaded, named or None, test or (), known, limits, backbone, device_of(device), bar)
    from mekrr_scale.report import check_plot, dressed

    show(dressed(found.tables()[0]))
    write_report(json, found.to_dict())
    draw(plot, lambda path: check_plot(path, found, overwrite=True))
    for line in found.failed:
        warn(line)
    say(f"{model}: {found.headline()}")
    if found.failed:
        raise typer.Exit(FAILED)


def _named(path: Path, among: list[Path]) -> Iterator[tuple[str, Atoms]]:
    """The frames of a file with their names: its own, with its folder where two have the same, and what was chosen."""
    file, choice = split_frames(path)
    alone = [split_frames(other)[0].stem for other in among].count(file.stem) == 1
    name = (file.stem if alone else str(file)) + ("" if choice is None else path.name.removeprefix(file.name))
    frames = start_frames(path)
    for index, atoms in enumerate(frames):
        yield name if len(frames) == 1 else f"{name} {index}", atoms
