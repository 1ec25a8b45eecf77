"""``lammps``: LAMMPS with the forces of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mekrr_scale.cli.console import talkative
from mekrr_scale.cli.options import D3, EXIT_CODES, Compile, Device, commands, device_of
from mekrr_scale.errors import ConfigError

Folder = Annotated[
    Path | None, typer.Option("--output", "-o", help="folder of the plugin; default: in Python's environment")
]

app = commands("LAMMPS with the forces of a model: run, build, path.")


@app.command(epilog=EXIT_CODES)
def run(
    script: Annotated[Path, typer.Argument(help="input of LAMMPS, with pair_style mekrr")],
    var: Annotated[
        list[str] | None, typer.Option(help="an index variable, NAME=VALUE or NAME='VALUE VALUE'; may be repeated")
    ] = None,
    log: Annotated[str | None, typer.Option(help="log of LAMMPS; default: log.lammps; none: no log")] = None,
    max_uncertainty: Annotated[float, typer.Option(help="stop above this uncertainty, meV/atom; 0 for no bound")] = 0.0,
    max_grade: Annotated[
        float, typer.Option(help="stop above this extrapolation grade of an atom; 0 for no bound")
    ] = 0.0,
    every: Annotated[
        int, typer.Option(help="steps between checks of the bounds, where pair_style does not say uncertainty N")
    ] = 10,
    dtype: Annotated[Literal["float32", "float64"], typer.Option(help="precision of the backbone")] = "float64",
    compile: Compile = False,
    device: Device = "cpu",
    d3: D3 = None,
) -> None:
    """Execute a LAMMPS input whose pair_style is mekrr, on one rank.

    The input names the model: `pair_style mekrr` and `pair_coeff * * model.mekrr H C O Cu`.

    Examples:

        mekrr-scale lammps run in.lammps

        mekrr-scale lammps run in.lammps --var T=300 --max-grade 1.5 --log run.log
    """
    from mekrr_scale.engines import lammps
    from mekrr_scale.models import Limits

    limits = Limits(max_uncertainty / 1e3 or None, max_grade or None)
    settings = lammps.Settings(every if limits.any else 0, limits)
    status = lammps.run_input(
        script, _variables(var or []), log, talkative(), settings, dtype, device_of(device), compile, d3
    )
    if status:
        raise typer.Exit(status)


@app.command(epilog=EXIT_CODES)
def build(output: Folder = None) -> None:
    """Compile pair_style mekrr as a plugin of LAMMPS', for any number of MPI ranks; prints where it is.

    For the LAMMPS and the Python that are installed here, with the C++ compiler that is found, or that of CXX.

    Examples:

        mekrr-scale lammps build

        LAMMPS_PLUGIN_PATH=$(dirname $(mekrr-scale lammps path)) mpiexec -n 4 lmp -in in.lammps
    """
    from mekrr_scale.engines import lammps

    typer.echo(lammps.build(output))


@app.command(epilog=EXIT_CODES)
def path(output: Folder = None) -> None:
    """Print where the plugin is that build has made.

    Examples:

        mekrr-scale lammps path
    """
    from mekrr_scale.engines import lammps

    typer.echo(lammps.built(output))


def _variables(given: list[str]) -> dict[str, list[str]]:
    """Names and values.

    Raises:
        ConfigError: not written so.
    """
    found = {}
    for pair in given:
        name, _, values = pair.partition("=")
        if not name.isidentifier() or not values.split():
            raise ConfigError(f"--var {pair!r}: write NAME=VALUE, e.g. T=300, or T='300 400'")
        found[name] = values.split()
    return found
