"""``python -m data_tools``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from data_tools.convert import SOURCES, Source, group_names, write
from data_tools.convert import convert as convert_file
from data_tools.download import download as download_file
from data_tools.inspect import inspect as inspect_structures
from data_tools.split import split as split_structures
from mekrr_scale.cli import told
from mekrr_scale.errors import ConfigError
from mekrr_scale.outputs import FRAMES, check_outputs
from mekrr_scale.structures import LabelKeys, read_structures

app = typer.Typer(
    help="Prepare data sets: convert, split, inspect, download.", no_args_is_help=True, pretty_exceptions_enable=False
)

EnergyKey = Annotated[str | None, typer.Option(help="info key of the energy")]
ForcesKey = Annotated[str | None, typer.Option(help="array key of the forces")]
StressKey = Annotated[str | None, typer.Option(help="info key of the stress")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace files that are there")]
Units = Annotated[str, typer.Option(help="units of the labels: energy[,length[,stress]]")]


@app.command()
def convert(
    sources: Annotated[list[Path], typer.Argument(help="files to read, one or several")],
    target: Annotated[Path, typer.Argument(help="extended xyz to write; .xz, .gz and .bz2 are compressed")],
    kind: Annotated[str, typer.Option(help=f"layout of the file: {', '.join(SOURCES)}")] = "ase",
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    units: Units = "eV,angstrom,eV/A^3",
    format: Annotated[str | None, typer.Option(help="ASE's name of the format")] = None,
    overwrite: Overwrite = False,
    group_key: Annotated[str, typer.Option(help="info key for the name of the file that a frame comes from")] = (
        "trajectory"
    ),
) -> None:
    """Published formats to extended xyz in eV and angstrom.

    Every frame is told the file that it comes from, under the group key, unless it has one: frames of a trajectory
    belong together in `split`, and in the folds of a fit (`extract --group-key trajectory`).

    Examples:

        python -m data_tools convert rmd17_ethanol.npz ethanol.xyz.xz --kind rmd17

        python -m data_tools convert run1.traj run2.traj all.xyz.xz
    """
    keys = LabelKeys(energy_key, forces_key, stress_key, **LabelKeys.parse_units(units))
    found: Source = kind  # type: ignore[assignment]
    check_outputs([(target, FRAMES, "")], sources, overwrite)
    named = zip(sources, group_names(sources), strict=True)
    frames = (
        atoms for path, name in named for atoms in convert_file(path, found, keys, format, group_key or None, name)
    )
    print(f"{target}: {write(target, frames, overwrite=True)} structures")


@app.command()
def split(
    source: Annotated[Path, typer.Argument(help="structures to split")],
    names: Annotated[list[Path], typer.Argument(help="files to write, one for each part")],
    fractions: Annotated[str, typer.Option(help="of the parts, e.g. 0.8,0.1,0.1")],
    seed: int = 0,
    tolerance: Annotated[float, typer.Option(help="below which fingerprints are the same")] = 0.02,
    group_key: Annotated[str | None, typer.Option(help="info key of the trajectory")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Split without leaks; copies and near-copies stay together and are reported.

    Example: python -m data_tools split all.xyz train.xyz test.xyz --fractions 0.9,0.1
    """
    try:
        parts = [float(piece) for piece in fractions.split(",")]
    except ValueError:
        raise ConfigError(f"--fractions {fractions!r}: write numbers such as 0.8,0.1,0.1") from None
    if len(parts) != len(names):
        raise ConfigError(f"{len(parts)} fractions for {len(names)} files; give one for each")
    check_outputs([(name, FRAMES, "") for name in names], [source], overwrite)
    structures = list(read_structures(source))
    found = split_structures(structures, parts, seed, tolerance, group_key)
    for name, indices in zip(names, found.parts, strict=True):
        print(f"{name}: {write(name, (structures[i] for i in indices), overwrite=True)} structures")
    print(f"{len(found.duplicates)} pairs of copies, {len(found.near_duplicates)} pairs of near-copies, kept together")
    for a, b in (*found.duplicates, *found.near_duplicates)[:10]:
        print(f"  {a} and {b}")


@app.command()
def inspect(
    source: Annotated[Path, typer.Argument(help="structures to summarise")],
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    units: Units = "eV,angstrom,eV/A^3",
    format: Annotated[str | None, typer.Option(help="ASE's name of the format")] = None,
) -> None:
    """Species, sizes, ranges, net forces, suspicious frames, agreement of energy and force units.

    Example: python -m data_tools inspect train.xyz.xz
    """
    keys = LabelKeys(energy_key, forces_key, stress_key, **LabelKeys.parse_units(units))
    structures = read_structures(source, format, keep_unreadable=True)
    print(json.dumps(inspect_structures(structures, keys).to_dict(), indent=2))


@app.command()
def download(
    url: Annotated[str, typer.Argument(help="what to fetch")],
    sums: Annotated[Path, typer.Option(help="file of sha256 sums that lists it")],
    folder: Annotated[Path, typer.Option(help="where to put it")] = Path(),
) -> None:
    """Fetch a file and check its sha256 sum.

    Example: python -m data_tools download https://example.org/set.zip --sums SHA256SUMS
    """
    print(download_file(url, folder, sums))


def main() -> None:
    """Run; errors end with one sentence."""
    try:
        app(prog_name="python -m data_tools")
    except Exception as error:
        sys.exit(told(error))


if __name__ == "__main__":
    main()
