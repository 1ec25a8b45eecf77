"""The commands that use a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import ase.io
import typer

from mekrr_scale.cli.console import EXIT_CODES, Bar, JobBar, errors, out
from mekrr_scale.cli.job import job
from mekrr_scale.cli.options import (
    Device,
    EnergyKey,
    ForcesKey,
    Format,
    ModelFile,
    StressKey,
    Timeout,
    Units,
    check_folder,
    device_of,
)
from mekrr_scale.distributed import Group
from mekrr_scale.errors import ConfigError, ModelError, StructureError
from mekrr_scale.interpret import explained, totals
from mekrr_scale.model import Model
from mekrr_scale.pipeline import Evaluation, evaluate_store
from mekrr_scale.pipeline import evaluate as evaluate_structures
from mekrr_scale.pipeline import predict as predict_structures
from mekrr_scale.pipeline.evaluate import summary
from mekrr_scale.pipeline.transfer_table import TransferTable, transfer_table
from mekrr_scale.potential import Potential
from mekrr_scale.progress import Progress
from mekrr_scale.report import (
    contribution_plot,
    contribution_table,
    error_table,
    parity_plot,
    species_plot,
    species_table,
    transfer_report,
)
from mekrr_scale.report import transfer_plot as plot_transfer
from mekrr_scale.select import select as select_structures
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import LabelKeys, count_structures, read_structures

apply_app = typer.Typer()


@apply_app.command(epilog=EXIT_CODES)
def evaluate(
    model: ModelFile,
    data: Annotated[Path, typer.Argument(help="structures with labels, or a store (energies only)")],
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures as JSON")] = None,
    plot: Annotated[Path | None, typer.Option(help="parity plot")] = None,
    species_figure: Annotated[Path | None, typer.Option("--species-plot", help="force errors by element")] = None,
    transfer: Annotated[
        list[str] | None,
        typer.Option(help="another MODEL:DATA; every model is evaluated on all data. May be repeated"),
    ] = None,
    transfer_plot: Annotated[Path | None, typer.Option(help="figure of the table of models and data")] = None,
    forces: Annotated[bool, typer.Option(help="compare forces and stress too")] = True,
    uncertainty: Annotated[
        bool | None, typer.Option(help="how many errors the intervals hold; default: where the model keeps them")
    ] = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    units: Units = "eV,angstrom,eV/A^3",
    format: Format = None,
    device: Device = "cpu",
    timeout: Timeout = 1800.0,
) -> None:
    """Errors of a model on labelled structures.

    Examples:

        mekrr-scale evaluate model.mekrr test.xyz.xz --plot parity.png --json errors.json

        mekrr-scale evaluate model.mekrr features   # a store: energies only, no backbone needed

        mekrr-scale evaluate pt111.mekrr pt111.xyz --transfer pt553.mekrr:pt553.xyz
    """
    chosen = device_of(device)
    loaded = _Loaded(model, Model.load(model), data, chosen)
    others = [_pair(text, chosen) for text in transfer or []]
    if transfer_plot is not None:
        check_folder(transfer_plot)
        if not others:
            raise ConfigError(
                "--transfer-plot draws a table of models and data; name others with --transfer MODEL:DATA"
            )
    keys = LabelKeys(energy_key, forces_key, stress_key, **LabelKeys.parse_units(units))
    with job(timeout) as group:
        with Bar(shown=group.rank == 0) as bar:
            shown = JobBar(bar, group) if group.size > 1 else bar
            found = _evaluate(loaded, data, keys, forces, format, shown, uncertainty, group)
            table = _transfer([loaded, *others], found, keys, forces, format, shown, group) if others else None
        if group.rank == 0:
            _tell(found, model, data, json_file, plot, species_figure, table)
            if table is not None:
                out.print(transfer_report(table))
                if transfer_plot is not None:
                    plot_transfer(transfer_plot, table)


def _tell(
    found: Evaluation,
    model: Path,
    data: Path,
    json_file: Path | None,
    plot: Path | None,
    species_figure: Path | None,
    table: TransferTable | None,
) -> None:
    """Tables and figures of an evaluation."""
    for line in found.rejected[:3]:
        errors.print(f"left out: {line}", markup=False, highlight=False)
    if len(found.rejected) > 3:
        errors.print(f"left out: {len(found.rejected) - 3} more structures", highlight=False)
    out.print(error_table([(data.name, found.metrics())]))
    if len(found.forces):
        out.print(species_table(found))
    held = found.coverage()
    if held:
        out.print(
            f"68 % intervals of the energy hold {100 * held['within_68']:.0f} % of the errors, 95 % intervals "
            f"{100 * held['within_95']:.0f} %; rank correlation of error and interval {held['rank_correlation']:.2f}",
            highlight=False,
        )
    if json_file is not None:
        told = {**summary(found), **({} if table is None else {"transfer": table.to_dict()})}
        json_file.write_text(json.dumps(told, indent=2), encoding="utf-8")
    if plot is not None:
        parity_plot(plot, found, title=f"{model.name} on {data.name}")
    if species_figure is not None:
        if not len(found.forces):
            raise ConfigError("there are no forces to plot by element; evaluate structures with forces")
        species_plot(species_figure, found)


@apply_app.command(epilog=EXIT_CODES)
def predict(
    model: ModelFile,
    structures: Annotated[Path, typer.Argument(help="structures to predict")],
    output: Annotated[Path, typer.Option("--output", "-o", help="extended xyz file to write")],
    forces: Annotated[bool, typer.Option(help="forces and stress too")] = True,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="and how sure they are")] = False,
    format: Format = None,
    device: Device = "cpu",
) -> None:
    """Predict energies, per-atom energies, forces and stress; writes extended xyz.

    Example:

        mekrr-scale predict model.mekrr candidates.xyz -o predicted.xyz
    """
    potential = Potential(Model.load(model), device=device_of(device))
    check_folder(output)
    count = 0
    with Bar() as bar, output.open("w", encoding="utf-8") as stream:
        bar.stage("predict", count_structures(structures, format) if structures.exists() else None)
        for atoms in predict_structures(potential, read_structures(structures, format), forces, bar, uncertainty):
            ase.io.write(stream, atoms, format="extxyz")
            count += 1
    out.print(f"{output}: {count} structures", highlight=False)


@apply_app.command(epilog=EXIT_CODES)
def select(
    model: ModelFile,
    structures: Annotated[Path, typer.Argument(help="unlabelled structures to choose from, e.g. a trajectory")],
    output: Annotated[Path, typer.Option("--output", "-o", help="extended xyz file for the chosen ones")],
    count: Annotated[int, typer.Option("--count", "-n", help="how many to choose")] = 50,
    method: Annotated[str, typer.Option(help="greedy (unsure and diverse), variance (unsure), random")] = "greedy",
    format: Format = None,
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="of method random")] = 0,
) -> None:
    """Choose the structures that a model would learn most from: the next batch for DFT.

    Example:

        mekrr-scale select model.mekrr run.xyz -n 40 -o next.xyz
    """
    check_folder(output)
    potential = Potential(Model.load(model), device=device_of(device))
    candidates = list(read_structures(structures, format))
    with Bar() as bar:
        found = select_structures(potential, candidates, count, method, seed, bar)  # type: ignore[arg-type]
    chosen = []
    for index, before, remaining in zip(
        found.indices, found.uncertainty.tolist(), found.remaining.tolist(), strict=True
    ):
        atoms = candidates[index].copy()
        atoms.info |= {"index": index, "uncertainty_per_atom": before, "remaining_uncertainty_per_atom": remaining}
        chosen.append(atoms)
    ase.io.write(output, chosen, format="extxyz")
    first, last = 1e3 * float(found.remaining[0]), 1e3 * float(found.remaining[-1])
    out.print(
        f"{output}: {count} of {len(candidates)} structures; uncertainty {first:.3g} meV/atom at the first, "
        f"{last:.3g} left at the last",
        highlight=False,
    )


@apply_app.command(epilog=EXIT_CODES)
def explain(
    model: ModelFile,
    structures: Annotated[Path, typer.Argument(help="structures to take apart")],
    output: Annotated[Path, typer.Option("--output", "-o", help="extended xyz file to write")],
    nearest: Annotated[int, typer.Option(help="landmarks to name for each atom")] = 3,
    plot: Annotated[Path | None, typer.Option(help="figure of contributions and similarities by element")] = None,
    format: Format = None,
    device: Device = "cpu",
) -> None:
    """Take predictions apart: atoms' and elements' parts of the energy, and the landmarks nearest to them.

    Example:

        mekrr-scale explain model.mekrr candidates.xyz -o parts.xyz --plot parts.png
    """
    check_folder(output)
    if nearest < 1:
        raise ConfigError(f"{nearest} landmarks asked for; ask for at least one")
    potential = Potential(Model.load(model), device=device_of(device))
    found = []
    with Bar() as bar, output.open("w", encoding="utf-8") as stream:
        bar.stage("explain", count_structures(structures, format) if structures.exists() else None)
        for atoms, explanation in explained(potential, read_structures(structures, format), nearest, bar):
            ase.io.write(stream, atoms, format="extxyz")
            found.append(explanation)
    out.print(contribution_table(totals(found)))
    if plot is not None:
        contribution_plot(plot, found)


@dataclass(frozen=True)
class _Loaded:
    """A model, the data that go with it, and its potential, loaded when structures ask for it."""

    path: Path
    model: Model
    data: Path
    device: str

    @cached_property
    def potential(self) -> Potential:
        return Potential(self.model, device=self.device)


def _pair(text: str, device: str) -> _Loaded:
    """A model and data, as MODEL:DATA."""
    model, _, data = text.partition(":")
    if not model or not data:
        raise ConfigError(f"--transfer {text!r}: write MODEL:DATA, e.g. pt553.mekrr:pt553.xyz")
    if not Path(data).exists():
        raise ConfigError(f"--transfer {text!r}: there is no {data}")
    return _Loaded(Path(model), Model.load(Path(model)), Path(data), device)


def _transfer(
    pairs: list[_Loaded],
    first: Evaluation,
    keys: LabelKeys,
    forces: bool,
    format: str | None,
    bar: Progress,
    group: Group,
) -> TransferTable:
    """Every model on all data; where a model cannot, the cell stays empty and the reason is told."""
    found = {(0, 0): first}
    for i, source in enumerate(pairs):
        for j, data in enumerate(pair.data for pair in pairs):
            if (i, j) == (0, 0):
                continue
            try:
                found[i, j] = _evaluate(source, data, keys, forces, format, bar, False, group)
            except (ModelError, StructureError) as error:
                bar.note(f"{source.path.name} on {data.name}: {error}")
    return transfer_table([pair.path.name for pair in pairs], [pair.data.name for pair in pairs], found)


def _evaluate(
    loaded: _Loaded,
    data: Path,
    keys: LabelKeys,
    forces: bool,
    format: str | None,
    bar: Progress,
    uncertainty: bool | None,
    group: Group,
) -> Evaluation:
    asked = loaded.model.posterior is not None if uncertainty is None else uncertainty
    if data.is_dir():
        store = FeatureStore(data)
        bar.stage("evaluate", store.n_structures)
        return evaluate_store(loaded.model, store, bar, asked, group)
    total = count_structures(data, format) if data.exists() else None
    structures = read_structures(data, format)
    potential = loaded.potential
    bar.stage("evaluate", total)
    return evaluate_structures(potential, structures, keys, forces, bar, asked, group)
