"""Tables for terminals: those of the reports, and of what has no report, drawn by rich."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

from mekrr_scale.backbones import Backbone
from mekrr_scale.figures import TextTable
from mekrr_scale.pipeline import Evaluation, FitReport, Resources, TransferTable
from mekrr_scale.regression import UNITS
from mekrr_scale.transfer import CurvePoint, DistillReport, TrainReport, summarized


def dressed(table: TextTable) -> Table:
    """A table as rich draws it."""
    shown = Table(title=table.title, title_justify="left")
    for place, name in enumerate(table.columns):
        shown.add_column(name, justify="left" if place in table.left else "right")
    for row in table.rows:
        shown.add_row(*row)
    shown.caption = table.caption or None
    return shown


def error_table(rows: Sequence[tuple[str, Mapping[str, float]]]) -> Table:
    """MAE and RMSE of energies and forces, and of stress where any was compared, a line for each data set."""
    names: tuple[str, ...] = ("data", "structures", "energy MAE", "energy RMSE", "force MAE", "force RMSE")
    digits = {"energy_mae": 2, "energy_rmse": 2, "force_mae": 1, "force_rmse": 1}
    caption = f"energy in {UNITS['energy'].text}, force in {UNITS['force'].text}"
    if any("stress_rmse" in metrics for _, metrics in rows):
        names += ("stress MAE", "stress RMSE")
        digits |= {"stress_mae": 2, "stress_rmse": 2}
        caption += f", stress in {UNITS['stress'].text}"
    lines = []
    for name, metrics in rows:
        values = [f"{metrics[key]:.{n}f}" if key in metrics else "-" for key, n in digits.items()]
        lines.append((name, f"{int(metrics['structures'])}", *values))
    return dressed(TextTable("Errors", names, tuple(lines), caption))


def species_table(evaluation: Evaluation) -> Table:
    """Force errors by element."""
    return dressed(evaluation.species_table())


def transfer_report(table: TransferTable) -> Table:
    """Errors of every model on all data."""
    return dressed(table.tables()[0])


def training_table(report: TrainReport) -> Table:
    """Errors on the validation set before training and of the weights that were kept."""
    return dressed(report.tables()[0])


def distill_table(report: DistillReport) -> Table:
    """Errors of student and teacher, and what a structure costs."""
    return dressed(report.tables()[0])


def contribution_table(rows: Mapping[str, tuple[int, float, float]]) -> Table:
    """Contributions of atoms to the energy, by element."""
    lines = [(symbol, str(count), f"{mean:.4f}", f"{spread:.4f}") for symbol, (count, mean, spread) in rows.items()]
    title = "Contributions beyond the reference energies (eV per atom)"
    return dressed(TextTable(title, ("element", "atoms", "mean", "spread"), tuple(lines)))


def block_table(backbone: Backbone) -> Table:
    """Blocks in the order in which an input passes through them, with their parameters."""
    lines = []
    for (name, modules), learning in zip(backbone.blocks().items(), backbone.parameters().values(), strict=True):
        count = sum(weight.numel() for module in modules for weight in module.parameters())
        lines.append((name, f"{count}", f"{sum(weight.numel() for weight in learning.values())}"))
    title = f"Blocks of {backbone.name} {backbone.version}"
    return dressed(TextTable(title, ("block", "parameters", "of them trained"), tuple(lines)))


def curve_table(points: Sequence[CurvePoint]) -> Table:
    """Means over the repeats, with lowest and highest."""
    names = ("variant", "structures", "energy RMSE", "force RMSE", "lowest", "highest")
    energy, forces = (summarized(points, key) for key in ("energy_rmse", "force_rmse"))
    lines = []
    for (variant, size), (mean, low, high) in forces.items():
        values = [energy[variant, size][0], mean, low, high]
        lines.append((variant, str(size), *("-" if np.isnan(value) else f"{value:.4g}" for value in values)))
    caption = f"{UNITS['energy'].text} and {UNITS['force'].text}; lowest and highest force RMSE of the repeats"
    return dressed(TextTable("Learning curve", names, tuple(lines), caption))


def trial_table(report: FitReport) -> Table:
    """Every candidate with its cross-validated errors, the best first."""
    return dressed(report.tables()[0])


def growth_table(report: FitReport) -> Table:
    """The numbers of landmarks that were tried, where they grew, with their cross-validated errors."""
    return dressed(report.tables()[1])


def resource_table(resources: Resources) -> Table:
    """What a fit will take, stage by stage."""
    ranks = "" if resources.ranks == 1 else f", each of {resources.ranks} ranks"
    lines = []
    for stage in resources.stages:
        memory = _size(resources.base_bytes + stage.bytes)
        lines.append((stage.name, memory, f"{stage.passes:g}", _duration(stage.seconds), stage.note))
    more = f" and {_duration(resources.seconds_iteration)} an iteration" if resources.seconds_iteration else ""
    caption = (
        f"{resources.rows} rows of {resources.columns} columns; {_size(resources.peak_bytes)} at most, "
        f"{_duration(resources.seconds)}{more}; rows kept: {resources.kept}"
        + (f" ({_size(resources.row_bytes)})" if resources.kept != "nothing" else "")
    )
    names = ("stage", "memory", "passes", "time", "remarks")
    return dressed(TextTable(f"Plan{ranks}", names, tuple(lines), caption, left=(0, 4)))


def _size(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.0f} kB"


def _duration(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.2g} s"
