"""``evaluate``: models beside labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mekrr_scale.cli.console import say, show, talkative
from mekrr_scale.cli.frames import frame_count
from mekrr_scale.cli.job import job, job_bar
from mekrr_scale.cli.options import (
    CHOICE,
    D3,
    EXIT_CODES,
    Device,
    EnergyKey,
    ForcesKey,
    Format,
    JsonFile,
    MaxMemory,
    ModelFile,
    Overwrite,
    StressKey,
    Timeout,
    Units,
    Workers,
    check_device,
    commands,
    device_of,
    label_keys,
)
from mekrr_scale.errors import BackboneError, ConfigError, ModelError, StructureError
from mekrr_scale.files import parse_bytes, split_frames, told_apart
from mekrr_scale.outputs import FIGURE, PAGE, REPORT, check_outputs, figure_of, write_report
from mekrr_scale.progress import LOGGER, Progress

if TYPE_CHECKING:
    from mekrr_scale.distributed import Group
    from mekrr_scale.models import Model, Potential
    from mekrr_scale.outputs import Given
    from mekrr_scale.pipeline import Evaluation, TransferTable
    from mekrr_scale.structures import LabelKeys

app = commands()

_NAMED = 3  # structures left out that are named


@app.command(epilog=EXIT_CODES)
def evaluate(
    model: ModelFile,
    data: Annotated[list[Path], typer.Argument(help=f"structures with labels, or a store (energies only){CHOICE}")],
    json_file: JsonFile = None,
    plot: Annotated[Path | None, typer.Option(help="parity plot")] = None,
    species_figure: Annotated[Path | None, typer.Option("--species-plot", help="force errors by element")] = None,
    page: Annotated[
        Path | None, typer.Option("--report", help="page of the model (.html) with these errors, as report writes it")
    ] = None,
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
    group_key: Annotated[
        str | None, typer.Option(help="info key of sets whose energies are told apart, with and without a shift")
    ] = None,
    device: Device = "cpu",
    max_memory: MaxMemory = None,
    d3: D3 = None,
    workers: Workers = None,
    timeout: Timeout = 1800.0,
    overwrite: Overwrite = False,
) -> None:
    """Errors of a model on labelled structures.

    Examples:

        mekrr-scale evaluate model.mekrr test.xyz.xz --plot parity.png --json errors.json

        mekrr-scale evaluate model.mekrr bulk.xyz slab.xyz@::10   # errors of each, too

        mekrr-scale evaluate model.mekrr features   # a store: energies only, no backbone needed

        mekrr-scale evaluate pt111.mekrr pt111.xyz --transfer pt553.mekrr:pt553.xyz
    """
    check_evaluate(**locals())
    chosen = device_of(device)
    figures = Figures(json_file, figure_of(plot), figure_of(species_figure), figure_of(transfer_plot), page)
    others = [Path(piece) for text in transfer or [] for piece in text.split(":", 1)]
    check_outputs(figures.outputs(), [model, *data, *others], overwrite)
    prediction = _Prediction(chosen, None if max_memory is None else parse_bytes(max_memory), d3)
    pairs = [_loaded(model, data, prediction), *(_pair(text, prediction) for text in transfer or [])]
    keys = label_keys(energy_key, forces_key, stress_key, units)
    with job(timeout) as group:
        with job_bar(group) as bar:
            comparison = _Comparison(keys, forces, format, group_key, workers, bar, group)
            found = comparison.evaluate(pairs[0], data, uncertainty)
            table = comparison.transfer(pairs, found) if len(pairs) > 1 else None
        if group.rank == 0:
            deliver(found, pairs[0], figures, table)


def check_evaluate(
    *,
    data: Sequence[Path],
    species_figure: Path | None,
    transfer: Sequence[str] | None,
    transfer_plot: Path | None,
    forces: bool,
    max_memory: str | None,
    units: str,
    device: str,
    d3: str | None,
    **_: object,
) -> None:
    """Refuse options that a batch job would refuse only when its turn has come.

    Raises:
        ConfigError, StructureError: a text that says nothing, or what does not go together.
    """
    from mekrr_scale.models import as_dispersion

    check_device(device)
    as_dispersion(d3)
    stores = [path for path in data if (path / "manifest.json").exists()]
    if stores and len(data) > 1:
        raise ConfigError(f"{stores[0]} is a store, which is evaluated alone; give one store, or files of structures")
    if species_figure is not None and (stores or not forces):
        why = f"{stores[0]} is a store, of which energies are compared" if stores else "--no-forces leaves them out"
        raise ConfigError(f"--species-plot draws errors of forces, and {why}; leave one of the two")
    if transfer_plot is not None and not transfer:
        raise ConfigError("--transfer-plot draws a table of models and data; name others with --transfer MODEL:DATA")
    for text in transfer or ():
        _named(text)
    if max_memory is not None:
        parse_bytes(max_memory)
    label_keys(None, None, None, units)


@dataclass(frozen=True)
class _Prediction:
    """How models predict."""

    device: str
    max_memory: int | None  # bytes
    d3: str | None

    def potential(self, model: Model) -> Potential:
        from mekrr_scale.models import Potential

        return Potential(model, device=self.device, max_memory=self.max_memory, dispersion=self.d3)


@dataclass(frozen=True)
class Loaded:
    """A model, the data that go with it, and its potential, loaded when structures ask for it."""

    path: Path
    model: Model
    data: Sequence[Path]
    prediction: _Prediction

    @property
    def name(self) -> str:
        """Of the data."""
        return ", ".join(path.name for path in self.data)

    @cached_property
    def potential(self) -> Potential:
        return self.prediction.potential(self.model)


@dataclass(frozen=True)
class Figures:
    """Files to write."""

    json: Path | None
    parity: Path | None
    species: Path | None
    transfer: Path | None
    page: Path | None

    def outputs(self) -> list[Given]:
        """With their kinds and options."""
        return [
            (self.json, REPORT, "--json"), (self.parity, FIGURE, "--plot"), (self.species, FIGURE, "--species-plot"),
            (self.transfer, FIGURE, "--transfer-plot"), (self.page, PAGE, "--report"),
        ]  # fmt: skip


@dataclass(frozen=True)
class _Comparison:
    """How predictions and labels are compared."""

    keys: LabelKeys
    forces: bool
    format: str | None
    group_key: str | None
    workers: int | None
    progress: Progress
    group: Group

    def evaluate(self, loaded: Loaded, data: Sequence[Path], uncertainty: bool | None) -> Evaluation:
        """One model on one set of data."""
        from mekrr_scale.pipeline import evaluate, evaluate_store
        from mekrr_scale.store import FeatureStore
        from mekrr_scale.structures import is_deepmd

        asked = loaded.model.posterior is not None if uncertainty is None else uncertainty
        if data[0].is_dir() and not is_deepmd(data[0]):
            if loaded.prediction.d3 is not None:
                raise ConfigError(f"--d3: {data[0]} is a store, which holds no positions; evaluate structures")
            store = FeatureStore(data[0])
            self.progress.stage("evaluate", store.n_structures)
            return evaluate_store(
                loaded.model, store, self.progress, asked, self.group, device=loaded.prediction.device
            )
        potential, given = loaded.potential, data[0] if len(data) == 1 else data
        self.progress.stage("evaluate", frame_count(data, self.format))
        return evaluate(
            potential, given, self.keys, self.forces, self.progress, asked, self.group, self.format,
            group_key=self.group_key, workers=self.workers,
        )  # fmt: skip

    def transfer(self, pairs: Sequence[Loaded], first: Evaluation) -> TransferTable:
        """Every model on all data; where a model cannot, the cell stays empty and the reason is told."""
        from mekrr_scale.pipeline import transfer_table

        models = _names([pair.path for pair in pairs])
        files = _names([path for pair in pairs for path in pair.data])
        sources = [models[pair.path] for pair in pairs]
        targets = [", ".join(files[path] for path in pair.data) for pair in pairs]
        found = {(0, 0): first}
        for i, source in enumerate(pairs):
            for j, target in enumerate(pairs):
                if (i, j) == (0, 0):
                    continue
                try:
                    found[i, j] = self.evaluate(source, target.data, uncertainty=False)
                except (BackboneError, ConfigError, ModelError, StructureError) as error:
                    self.progress.note(f"{sources[i]} on {targets[j]}: {error}")
        return transfer_table(sources, targets, found)


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """Of each path once, for tables."""
    once = list(dict.fromkeys(paths))
    return dict(zip(once, told_apart(once), strict=True))


def _loaded(model: Path, data: Sequence[Path], prediction: _Prediction) -> Loaded:
    from mekrr_scale.models import Model

    return Loaded(model, Model.load(model), data, prediction)


def _pair(text: str, prediction: _Prediction) -> Loaded:
    """A model and data, as MODEL:DATA."""
    model, data = _named(text)
    if not split_frames(data)[0].exists():
        raise ConfigError(f"--transfer {text!r}: there is no {data}")
    return _loaded(Path(model), [Path(data)], prediction)


def _named(text: str) -> tuple[str, str]:
    model, _, data = text.partition(":")
    if not model or not data:
        raise ConfigError(f"--transfer {text!r}: write MODEL:DATA, e.g. pt553.mekrr:pt553.xyz")
    return model, data


def deliver(found: Evaluation, of: Loaded, figures: Figures, table: TransferTable | None) -> None:
    """Tables and figures of an evaluation."""
    from mekrr_scale.report import parity_plot, species_plot, transfer_plot

    _tell(found, of.name, table)
    write_report(figures.json, {**found.to_dict(), **({} if table is None else {"transfer": table.to_dict()})})
    if figures.parity is not None:
        parity_plot(figures.parity, found, title=f"{of.path.name} on {of.name}", overwrite=True)
    if figures.transfer is not None and table is not None:
        transfer_plot(figures.transfer, table, overwrite=True)
    if figures.page is not None:
        from mekrr_scale.report import results_beside, save_html, with_evaluation

        page = with_evaluation(results_beside(of.model, of.path), found, of.name)
        save_html(page, figures.page, overwrite=True)
    if figures.species is not None:  # last: all else is written when this cannot be
        if not len(found.forces):
            raise ConfigError("there are no forces to plot by element; evaluate structures with forces")
        species_plot(figures.species, found, overwrite=True)


def _tell(found: Evaluation, name: str, table: TransferTable | None) -> None:
    from mekrr_scale.report import dressed, error_table, species_table, transfer_report

    for line in found.rejected[:_NAMED]:
        LOGGER.info("left out: %s", line)
    if len(found.rejected) > _NAMED:
        LOGGER.info("left out: %d more structures", len(found.rejected) - _NAMED)
    for line in [*found.remarks, *found.warnings()]:
        LOGGER.warning("%s", line)
    metrics = found.metrics()
    show(error_table([(name, metrics)]))
    if not talkative():
        say(", ".join([f"{name}: {metrics['structures']:.0f} structures", *_maes(metrics)]))
    if found.shift() is not None or found.set_names:
        show(dressed(found.set_table()))
    if len(found.forces):
        show(species_table(found))
    if len(found.isolated):
        show(dressed(found.isolated_table()))
    held = found.coverage()
    if held:
        show(
            f"68 % intervals of the energy hold {100 * held['within_68']:.0f} % of the errors, 95 % intervals "
            f"{100 * held['within_95']:.0f} %; rank correlation of error and interval {held['rank_correlation']:.2f}"
        )
    if table is not None:
        show(transfer_report(table))


def _maes(metrics: Mapping[str, float]) -> Iterator[str]:
    from mekrr_scale.regression import UNITS

    for kind in ("energy", "force", "stress"):
        if f"{kind}_mae" in metrics:
            yield f"{kind} MAE {metrics[f'{kind}_mae']:.2f} {UNITS[kind].text}"
