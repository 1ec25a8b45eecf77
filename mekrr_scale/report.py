"""Tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float64
from numpy import ndarray
from rich.table import Table

from mekrr_scale.backbones import Backbone
from mekrr_scale.interpret import Explanation
from mekrr_scale.pipeline import Evaluation, FitReport, Resources
from mekrr_scale.pipeline.transfer_table import TransferTable
from mekrr_scale.transfer import CurvePoint, DistillReport, TrainReport
from mekrr_scale.transfer.curve import summarized

matplotlib.use("Agg")

_BLUE, _ORANGE, _GREY = "#2b6cb0", "#c05621", "#718096"


def error_table(rows: Sequence[tuple[str, dict[str, float]]]) -> Table:
    """MAE and RMSE of energies and forces, a line for each data set."""
    table = Table(title="Errors", title_justify="left")
    table.add_column("data")
    for name in ("structures", "energy MAE", "energy RMSE", "force MAE", "force RMSE"):
        table.add_column(name, justify="right")
    table.add_section()
    for name, metrics in rows:
        values = [f"{int(metrics['structures'])}"]
        for key, digits in (("energy_mae", 2), ("energy_rmse", 2), ("force_mae", 1), ("force_rmse", 1)):
            values.append(f"{metrics[key]:.{digits}f}" if key in metrics else "-")
        table.add_row(name, *values)
    table.caption = "energy in meV/atom, force in meV/angstrom"
    return table


def species_table(evaluation: Evaluation) -> Table:
    """Force errors by element."""
    table = Table(title="Forces by element (meV/angstrom)", title_justify="left")
    for name in ("element", "atoms", "MAE", "RMSE"):
        table.add_column(name, justify="left" if name == "element" else "right")
    for symbol, (count, mae, rmse) in evaluation.force_errors_by_species().items():
        table.add_row(symbol, str(count), f"{mae:.1f}", f"{rmse:.1f}")
    return table


def contribution_table(rows: dict[str, tuple[int, float, float]]) -> Table:
    """Contributions of atoms to the energy, by element."""
    table = Table(title="Contributions beyond the reference energies (eV per atom)", title_justify="left")
    for name in ("element", "atoms", "mean", "spread"):
        table.add_column(name, justify="left" if name == "element" else "right")
    for symbol, (count, mean, spread) in rows.items():
        table.add_row(symbol, str(count), f"{mean:.4f}", f"{spread:.4f}")
    return table


def trial_table(report: FitReport) -> Table:
    """Every candidate with its cross-validated errors, the best first."""
    table = Table(title="Candidates, cross-validated", title_justify="left")
    shown = ("standardize", "baseline", "length_scale", "alpha", "ridge", "rank", "energy_rmse", "force_rmse")
    for name in shown:
        table.add_column(name.replace("_", " "), justify="right" if name not in shown[:2] else "left")
    for trial in sorted(report.trials, key=lambda t: float(t["energy_rmse"])):
        table.add_row(*(_cell(name, trial[name]) for name in shown))
    table.caption = "RMSE: energy in meV/atom, force along the stored directions in meV/angstrom"
    return table


def block_table(backbone: Backbone) -> Table:
    """Blocks in the order in which an input passes through them, with their parameters."""
    table = Table(title=f"Blocks of {backbone.name} {backbone.version}", title_justify="left")
    for name in ("block", "parameters", "of them trained"):
        table.add_column(name, justify="left" if name == "block" else "right")
    for (name, modules), learning in zip(backbone.blocks().items(), backbone.parameters().values(), strict=True):
        count = sum(weight.numel() for module in modules for weight in module.parameters())
        table.add_row(name, f"{count}", f"{sum(weight.numel() for weight in learning.values())}")
    return table


def training_table(report: TrainReport) -> Table:
    """Errors on the validation set before training and of the weights that were kept."""
    table = Table(title="Validation", title_justify="left")
    for name in ("", "step", "loss", "energy", "forces", "stress"):
        table.add_column(name, justify="right" if name else "left")
    for name, record in (("before", report.history[0]), ("kept", report.best)):
        errors = (record.errors.energy, record.errors.forces, record.errors.stress)
        shown = ["-" if np.isnan(value) else f"{1e3 * value:.4g}" for value in errors]
        table.add_row(name, str(record.step), f"{record.validation:.3g}", *shown)
    rates = ", ".join(f"{name} {rate:.1e}" if rate else f"{name} frozen" for name, rate in report.rates.items())
    table.caption = f"RMSE in meV/atom, meV/angstrom, meV/angstrom^3; learning rates: {rates}"
    return table


def training_plot(path: Path | str, report: TrainReport) -> None:
    """Losses, errors on the validation set, and the learning rate, by step."""
    import matplotlib.pyplot as plt

    history = report.history
    steps = [record.step for record in history]
    labels = {"energy": "energy RMSE (meV/atom)", "forces": "force RMSE (meV/Å)", "stress": "stress RMSE (meV/Å³)"}
    shown = [(key, label) for key, label in labels.items() if not np.isnan(getattr(history[0].errors, key))]
    figure, axes = plt.subplots(1, 1 + len(shown), figsize=(4.4 * (1 + len(shown)), 3.8), squeeze=False)
    left = axes[0, 0]
    left.plot(steps[1:], [record.training for record in history[1:]], color=_GREY, label="training")
    left.plot(steps, [record.validation for record in history], color=_BLUE, label="validation (averaged weights)")
    left.set_ylabel("loss")
    left.legend(frameon=False, fontsize=8, loc="upper right")
    rate = left.twinx()
    rate.plot(steps, [record.rate for record in history], color=_ORANGE, linewidth=0.8, linestyle=":")
    rate.set_ylabel("learning rate", color=_ORANGE)
    for axis, (key, label) in zip(axes[0, 1:], shown, strict=True):
        axis.plot(steps, [1e3 * getattr(record.errors, key) for record in history], color=_BLUE)
        axis.set_ylabel(label)
    for axis in axes[0]:
        axis.set_yscale("log")
        _plain_ticks(axis.yaxis)
        axis.set_xlabel("step")
        axis.axvline(report.best.step, color="black", linewidth=0.8, linestyle="--")
        axis.spines[["top", "right"]].set_visible(False)
    rate.spines["top"].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _plain_ticks(axis: Any) -> None:
    """Numbers such as 150 on a logarithmic axis, whose range may be less than a decade."""
    from matplotlib.ticker import LogFormatter

    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter())


def transfer_report(table: TransferTable) -> Table:
    """Errors of every model on all data."""
    shown = Table(title="Transfer: models (rows) on data (columns)", title_justify="left")
    shown.add_column("model")
    for target in table.targets:
        shown.add_column(target, justify="right")
    names = ("energy_rmse", "energy_rmse_shifted", "force_rmse")
    for i, source in enumerate(table.sources):
        cells = []
        for j in range(len(table.targets)):
            values = [table.metrics[name][i, j] for name in names]
            cells.append(" / ".join("-" if np.isnan(value) else f"{value:.3g}" for value in values))
        shown.add_row(source, *cells)
    shown.caption = "RMSE: energy (meV/atom) / energy after a shift per element / forces (meV/angstrom)"
    return shown


def transfer_plot(path: Path | str, table: TransferTable) -> None:
    """The same as colours, one panel for each quantity."""
    import matplotlib.pyplot as plt

    labels = {
        "energy_rmse": "energy RMSE (meV/atom)",
        "energy_rmse_shifted": "after a shift per element",
        "force_rmse": "force RMSE (meV/Å)",
    }
    shown = [(name, label) for name, label in labels.items() if not np.isnan(table.metrics[name]).all()]
    width = 1.6 + 1.1 * len(table.targets)
    figure, axes = plt.subplots(
        1, len(shown), figsize=(width * len(shown), 1.4 + 0.7 * len(table.sources)), squeeze=False
    )
    for axis, (name, label) in zip(axes[0], shown, strict=True):
        values = table.metrics[name]
        axis.imshow(np.log10(np.maximum(values, 1e-3)), cmap="Blues", aspect="auto")
        middle = np.nanmean(np.log10(np.maximum(values, 1e-3)))
        for (i, j), value in np.ndenumerate(values):
            colour = "white" if np.log10(max(value, 1e-3)) > middle else "black"
            axis.text(j, i, "-" if np.isnan(value) else f"{value:.3g}", ha="center", va="center", color=colour)
        axis.set_xticks(range(len(table.targets)), table.targets, rotation=20, ha="right", fontsize=8)
        axis.set_yticks(range(len(table.sources)), table.sources, fontsize=8)
        axis.set_title(label, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def distill_table(report: DistillReport) -> Table:
    """Errors of student and teacher, and what a structure costs."""
    table = Table(title="Distillation, on the test structures", title_justify="left")
    for name in ("", "energy", "forces", "ms a structure"):
        table.add_column(name, justify="right" if name else "left")
    seconds = [f"{1e3 * value:.3g}" for value in report.seconds]
    rows = (
        ("student against teacher", report.to_teacher, ""),
        ("teacher against truth", report.teacher_to_truth, seconds[0]),
        ("student against truth", report.to_truth, seconds[1]),
    )
    for name, errors, cost in rows:
        shown = ["-", "-"] if errors is None else [f"{errors.energy_rmse_shifted:.3g}", f"{errors.force_rmse:.4g}"]
        table.add_row(name, *shown, cost)
    table.caption = (
        f"RMSE: energy after a shift per element in meV/atom, forces in meV/angstrom; {report.labelled} structures "
        f"labelled ({report.sampled} of them sampled); the student is {report.speed_up:.3g} times as fast"
    )
    return table


def curve_table(points: Sequence[CurvePoint]) -> Table:
    """Means over the repeats, with lowest and highest."""
    table = Table(title="Learning curve", title_justify="left")
    for name in ("variant", "structures", "energy RMSE", "force RMSE", "lowest", "highest"):
        table.add_column(name, justify="left" if name == "variant" else "right")
    energy, forces = (summarized(points, key) for key in ("energy_rmse", "force_rmse"))
    for (variant, size), (mean, low, high) in forces.items():
        values = [energy[variant, size][0], mean, low, high]
        table.add_row(variant, str(size), *("-" if np.isnan(value) else f"{value:.4g}" for value in values))
    table.caption = "meV/atom and meV/angstrom; lowest and highest force RMSE of the repeats"
    return table


def curve_plot(path: Path | str, points: Sequence[CurvePoint]) -> None:
    """Errors against the number of training structures; bands from the lowest to the highest repeat."""
    import matplotlib.pyplot as plt

    labels = {"force_rmse": "force RMSE (meV/Å)", "energy_rmse": "energy RMSE (meV/atom)"}
    shown = [(key, label) for key, label in labels.items() if not all(np.isnan(getattr(p, key)) for p in points)]
    figure, axes = plt.subplots(1, len(shown), figsize=(5.2 * len(shown), 4.2), squeeze=False)
    variants = list(dict.fromkeys(point.variant for point in points))
    colours = plt.get_cmap("tab10")
    for axis, (key, label) in zip(axes[0], shown, strict=True):
        found = summarized(points, key)
        for place, variant in enumerate(variants):
            sizes = sorted(size for name, size in found if name == variant)
            mean, low, high = (np.array([found[variant, size][i] for size in sizes]) for i in range(3))
            axis.plot(sizes, mean, marker="o", markersize=3, color=colours(place % 10), label=variant)
            axis.fill_between(sizes, low, high, color=colours(place % 10), alpha=0.15, linewidth=0)
        axis.set(xscale="log", yscale="log", xlabel="training structures", ylabel=label)
        _plain_ticks(axis.yaxis)
        every = sorted({point.size for point in points})
        axis.set_xticks(every, [str(size) for size in every])
        axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def resource_table(resources: Resources) -> Table:
    """What a fit will take, stage by stage."""
    ranks = "" if resources.ranks == 1 else f", each of {resources.ranks} ranks"
    table = Table(title=f"Plan{ranks}", title_justify="left")
    for name in ("stage", "memory", "passes", "time"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    table.add_column("remarks")
    for stage in resources.stages:
        memory = _size(resources.base_bytes + stage.bytes)
        table.add_row(stage.name, memory, f"{stage.passes:g}", _duration(stage.seconds), stage.note)
    more = f" and {_duration(resources.seconds_iteration)} an iteration" if resources.seconds_iteration else ""
    table.caption = (
        f"{resources.rows} rows of {resources.columns} columns; {_size(resources.peak_bytes)} at most, "
        f"{_duration(resources.seconds)}{more}; rows kept: {resources.kept}"
        + (f" ({_size(resources.row_bytes)})" if resources.kept != "nothing" else "")
    )
    return table


def _size(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.0f} kB"


def _duration(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.2g} s"


def parity_plot(
    path: Path | str,
    evaluation: Evaluation | None = None,
    folds: tuple[Float64[ndarray, " n"], Float64[ndarray, " n"]] | None = None,
    title: str = "",
) -> None:
    """Predicted against reference: energies less the baseline (meV/atom) and force components.

    Args:
        folds: reference and out-of-fold prediction, eV/atom less the baseline, drawn behind.
    """
    import matplotlib.pyplot as plt

    with_forces = evaluation is not None and len(evaluation.forces) > 0
    figure, axes = plt.subplots(1, 2 if with_forces else 1, figsize=(9 if with_forces else 4.6, 4.4), squeeze=False)
    axis = axes[0, 0]
    pairs = [] if folds is None or not len(folds[0]) else [(*folds, _GREY, "cross-validation")]
    if evaluation is not None:
        left = [
            (e - evaluation.baseline) / evaluation.n_atoms for e in (evaluation.energy, evaluation.energy_predicted)
        ]
        pairs.append((left[0], left[1], _BLUE, "evaluated"))
    centre = float(np.median(np.concatenate([pair[0] for pair in pairs]))) if pairs else 0.0
    for reference, predicted, colour, label in pairs:
        _scatter(axis, 1e3 * (reference - centre), 1e3 * (predicted - centre), colour, label)
    _finish(axis, "energy less baseline (meV/atom)")
    if with_forces and evaluation is not None:
        _scatter(axes[0, 1], evaluation.forces.ravel(), evaluation.forces_predicted.ravel(), _BLUE, "evaluated")
        _finish(axes[0, 1], "force components (eV/Å)")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def species_plot(path: Path | str, evaluation: Evaluation) -> None:
    """Force errors by element as bars."""
    import matplotlib.pyplot as plt

    rows = evaluation.force_errors_by_species()
    figure, axis = plt.subplots(figsize=(1.6 + 0.9 * len(rows), 3.6))
    place = np.arange(len(rows))
    axis.bar(place - 0.2, [mae for _, mae, _ in rows.values()], 0.4, label="MAE", color=_BLUE)
    axis.bar(place + 0.2, [rmse for _, _, rmse in rows.values()], 0.4, label="RMSE", color=_ORANGE)
    axis.set_xticks(place, [f"{symbol}\n{count} atoms" for symbol, (count, _, _) in rows.items()])
    axis.set_ylabel("force error (meV/Å)")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def contribution_plot(path: Path | str, explanations: Sequence[Explanation]) -> None:
    """Contributions of atoms and similarity to the nearest landmark, by element."""
    import matplotlib.pyplot as plt

    species = np.concatenate([found.species.numpy() for found in explanations])
    parts = np.concatenate([found.contributions.numpy() for found in explanations])
    nearest = np.concatenate([found.similarity[:, 0].numpy() for found in explanations])
    elements = np.unique(species).tolist()
    figure, axes = plt.subplots(1, 2, figsize=(3.2 + 1.6 * len(elements), 3.8))
    for axis, values, label in (
        (axes[0], parts, "contribution to the energy (eV/atom)"),
        (axes[1], nearest, "similarity to the nearest landmark"),
    ):
        axis.boxplot([values[species == z] for z in elements], showfliers=len(values) < 5000, widths=0.6)
        names = [f"{chemical_symbols[z]}\n{int((species == z).sum())} atoms" for z in elements]
        axis.set_xticks(np.arange(len(elements)) + 1, names)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _scatter(axis: Any, reference: ndarray, predicted: ndarray, colour: str, label: str) -> None:
    error = predicted - reference
    mae, rmse = float(np.abs(error).mean()), float(np.sqrt((error**2).mean()))
    size = 14 if len(reference) < 500 else 4
    text = f"{label}: MAE {mae:.3g}, RMSE {rmse:.3g}"
    axis.scatter(reference, predicted, s=size, alpha=0.6, linewidths=0, color=colour, label=text, rasterized=True)


def _finish(axis: Any, quantity: str) -> None:
    low = min(axis.get_xlim()[0], axis.get_ylim()[0])
    high = max(axis.get_xlim()[1], axis.get_ylim()[1])
    axis.plot([low, high], [low, high], color="black", linewidth=0.8, zorder=0)
    axis.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axis.set_xlabel(f"reference {quantity}")
    axis.set_ylabel(f"predicted {quantity}")
    axis.legend(frameon=False, loc="upper left", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _cell(name: str, value: Any) -> str:
    if isinstance(value, float):
        if np.isnan(value):
            return "-"
        if name.endswith("rmse"):
            return f"{1e3 * value:.3f}"
        return f"{value:.1e}" if name == "ridge" else f"{value:.3g}"
    if isinstance(value, tuple):
        return ", ".join(f"{v:.3g}" for v in value)
    return str(value)
