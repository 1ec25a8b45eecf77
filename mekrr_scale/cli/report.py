"""``report``: a page of what a model was fitted to, how good it is and what limits it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mekrr_scale.cli.console import progress_bar, say, show
from mekrr_scale.cli.options import (
    EXIT_CODES,
    Device,
    EnergyKey,
    ForcesKey,
    Format,
    ModelFile,
    Overwrite,
    StressKey,
    Units,
    Workers,
    commands,
    device_of,
    label_keys,
)
from mekrr_scale.outputs import PAGE, REPORT, check_folder, check_outputs, write_report

app = commands()


@app.command(epilog=EXIT_CODES)
def report(
    model: ModelFile,
    store: Annotated[
        list[Path] | None,
        typer.Option("--store", "-s", help="store that was fitted, for the map; default: as the page says"),
    ] = None,
    test: Annotated[
        list[Path] | None, typer.Option(help="structures with labels, or a store, to test on; may be repeated")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="page to write")] = Path("report.html"),
    plot: Annotated[Path | None, typer.Option(help="folder for every figure as a file of its own (SVG)")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the page's numbers as JSON")] = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    units: Units = "eV,angstrom,eV/A^3",
    format: Format = None,
    device: Device = "cpu",
    workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """One page of what a model was fitted to, how good it is and what limits it.

    Begins with the page that the fit wrote beside the model (model.html), and adds errors on tests.

    Examples:

        mekrr-scale report model.mekrr --test test.xyz -o report.html

        mekrr-scale report model.mekrr --test slabs.xyz --test bulk.xyz --plot figures
    """
    from mekrr_scale.models import Model, Potential
    from mekrr_scale.report import page_beside, results_beside, save_figures, save_html, with_tests
    from mekrr_scale.structures import require_file

    chosen = device_of(device)
    for path in (*(store or []), *(test or [])):
        require_file(path)
    beside = page_beside(model)
    read = [model, *(test or []), *([beside] if beside.is_file() and beside != output else [])]
    check_outputs([(output, PAGE, "--output"), (json_file, REPORT, "--json")], read, overwrite)
    check_folder(plot, "--plot")
    loaded = Model.load(model)
    with progress_bar() as bar:
        found = with_tests(
            results_beside(loaded, model), Potential(loaded, device=chosen) if test else loaded, test or [],
            store or [], label_keys(energy_key, forces_key, stress_key, units), format, workers, bar,
        )  # fmt: skip
    save_html(found, output, overwrite=True)
    write_report(json_file, found.to_dict())
    if plot is not None:
        save_figures(found, plot, overwrite)
    for line in found.advice:
        show(line)
    say(f"page {output}")
