"""``explain``: predictions taken apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mekrr_scale.cli.console import draw, progress_bar, say, show, talkative
from mekrr_scale.cli.frames import frame_count, write_frames
from mekrr_scale.cli.options import CHOICE, EXIT_CODES, Device, Format, ModelFile, Overwrite, commands, device_of
from mekrr_scale.errors import ConfigError
from mekrr_scale.outputs import FIGURE, FRAMES, check_outputs, figure_of

if TYPE_CHECKING:
    from ase import Atoms

    from mekrr_scale.simulation import Explanation

app = commands()


@app.command(epilog=EXIT_CODES)
def explain(
    model: ModelFile,
    structures: Annotated[Path, typer.Argument(help=f"structures to take apart{CHOICE}")],
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write: .xyz (.gz, .xz, .bz2), .traj or .db")],
    nearest: Annotated[int, typer.Option(help="landmarks to name for each atom")] = 3,
    plot: Annotated[Path | None, typer.Option(help="figure of contributions and similarities by element")] = None,
    format: Format = None,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Take predictions apart: atoms' and elements' parts of the energy, and the landmarks nearest to them.

    Example:

        mekrr-scale explain model.mekrr candidates.xyz -o parts.xyz --plot parts.png
    """
    from mekrr_scale.models import Model, Potential
    from mekrr_scale.report import contribution_plot, contribution_table
    from mekrr_scale.simulation import explained, totals
    from mekrr_scale.structures import read_structures

    plot = figure_of(plot)
    check_outputs([(output, FRAMES, "--output"), (plot, FIGURE, "--plot")], [model, structures], overwrite)
    if nearest < 1:
        raise ConfigError(f"{nearest} landmarks asked for; ask for at least one")
    potential = Potential(Model.load(model), device=device_of(device))
    found: list[Explanation] = []
    with progress_bar() as bar:
        bar.stage("explain", frame_count(structures, format))
        pairs = explained(potential, read_structures(structures, format), nearest, bar)
        count = write_frames(output, _kept(pairs, found))
    show(contribution_table(totals(found)))
    if not talkative():
        say(f"{output}: {count} structures")
    draw(plot, lambda path: contribution_plot(path, found, overwrite=True))


def _kept(pairs: Iterable[tuple[Atoms, Explanation]], found: list[Explanation]) -> Iterator[Atoms]:
    """The structures; what explains them is put into the list."""
    for atoms, explanation in pairs:
        found.append(explanation)
        yield atoms
