"""Figures in files: what reports draw, written and closed.

The name's suffix is the format, none is PNG. A file that is there and no figure of the package's (or of matplotlib's)
is replaced only with ``overwrite``; ConfigError otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Float64
from numpy import ndarray

from mekrr_scale.checks import CheckReport
from mekrr_scale.figures import band_axes, boxes_by_element, errors_by_element, new_axes
from mekrr_scale.files import replacing
from mekrr_scale.outputs import FIGURE, WRITER, check_output, figure_of
from mekrr_scale.pipeline import Evaluation, TransferTable, parity_of_folds
from mekrr_scale.regression import UNITS
from mekrr_scale.simulation import Explanation, MdCourse, MdPlan, RelaxCourse, Selection, relaxation_axes
from mekrr_scale.transfer import CurvePoint, TrainReport, summarized

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def parity_plot(
    path: Path | str,
    evaluation: Evaluation | None = None,
    folds: tuple[Float64[ndarray, " n"], Float64[ndarray, " n"]] | None = None,
    title: str = "",
    overwrite: bool = False,
) -> None:
    """Predicted against reference: energies less the baseline (meV/atom) and force components.

    Args:
        folds: reference and out-of-fold prediction, eV/atom less the baseline, drawn behind.
    """
    if folds is not None and not len(folds[0]):
        folds = None
    axes = [parity_of_folds(folds)] if evaluation is None else evaluation.plot(folds=folds)
    write_figure(path, axes[0], overwrite, title)


def species_plot(path: Path | str, evaluation: Evaluation, overwrite: bool = False) -> None:
    """Force errors by element as bars."""
    rows = evaluation.force_errors_by_species()
    write_figure(path, errors_by_element(rows, f"force error ({UNITS['force'].symbol})"), overwrite)


def transfer_plot(path: Path | str, table: TransferTable, overwrite: bool = False) -> None:
    """Errors of every model on all data as colours, one panel for each quantity."""
    write_figure(path, table.plot()[0], overwrite)


def training_plot(path: Path | str, report: TrainReport, overwrite: bool = False) -> None:
    """Losses, errors on the validation set, and the learning rate, by step."""
    write_figure(path, report.plot()[0], overwrite)


def check_plot(path: Path | str, report: CheckReport, overwrite: bool = False) -> None:
    """A panel for each check that has curves."""
    write_figure(path, report.plot()[0], overwrite)


def md_plot(
    path: Path | str,
    trajectory: Path | str,
    plan: MdPlan,
    beyond: Atoms | None = None,
    overwrite: bool = False,
) -> None:
    """Temperature, energies, pressure and uncertainties along a simulation (``MdCourse.read``)."""
    write_figure(path, MdCourse.read(trajectory, plan, beyond).plot()[0], overwrite)


def relax_plot(path: Path | str, courses: Sequence[RelaxCourse], force: float, overwrite: bool = False) -> None:
    """Energies and largest forces (asked for: ``force``, eV/angstrom) of relaxations, step by step."""
    write_figure(path, relaxation_axes(courses, force)[0], overwrite)


def selection_plot(path: Path | str, selection: Selection, overwrite: bool = False) -> None:
    """Where the chosen structures are among all, and how unsure the model is of them."""
    write_figure(path, selection.plot()[0], overwrite)


def contribution_plot(path: Path | str, explanations: Sequence[Explanation], overwrite: bool = False) -> None:
    """Contributions of atoms and similarity to the nearest landmark, by element."""
    species = np.concatenate([found.species.numpy() for found in explanations])
    parts = np.concatenate([found.contributions.numpy() for found in explanations])
    nearest = np.concatenate([found.similarity[:, 0].numpy() for found in explanations])
    elements = np.unique(species).tolist()
    axes = new_axes(3.2 + 1.6 * len(elements), 3.8, 2)
    for panel, values, label in (
        (axes[0], parts, "contribution to the energy (eV/atom)"),
        (axes[1], nearest, "similarity to the nearest landmark"),
    ):
        boxes_by_element({chemical_symbols[z]: values[species == z] for z in elements}, label, panel)
    write_figure(path, axes[0], overwrite)


def curve_plot(path: Path | str, points: Sequence[CurvePoint], overwrite: bool = False) -> None:
    """Errors against the number of training structures; bands from the lowest to the highest repeat."""
    labels = {
        "force_rmse": f"force RMSE ({UNITS['force'].symbol})",
        "energy_rmse": f"energy RMSE ({UNITS['energy'].symbol})",
    }
    shown = [(key, label) for key, label in labels.items() if not all(np.isnan(getattr(p, key)) for p in points)]
    axes = new_axes(5.2 * len(shown), 4.2, len(shown))
    for panel, (key, label) in zip(axes, shown, strict=True):
        curves: dict[str, dict[int, tuple[float, float, float]]] = {point.variant: {} for point in points}
        for (variant, size), values in summarized(points, key).items():
            curves[variant][size] = values
        band_axes(curves, label, panel)
    axes[0].legend(frameon=False, fontsize=8)
    write_figure(path, axes[0], overwrite)


def write_figure(path: Path | str, axes: Axes, overwrite: bool, title: str = "") -> None:
    """Write the figure that axes are in, and close it."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    if title:
        figure.suptitle(title)
    target = figure_of(Path(path))
    try:
        check_output(target, FIGURE, overwrite)
        kind = target.suffix[1:].lower()
        with replacing(target) as temporary:
            figure.savefig(temporary, format=kind, dpi=130, **_signed(kind))
    finally:
        plt.close(figure)


def _signed(kind: str) -> dict[str, Any]:
    """The package's name in the file, by which it knows the file again."""
    if kind in ("jpg", "jpeg"):
        return {"pil_kwargs": {"comment": WRITER}}
    if kind in ("tif", "tiff"):
        return {"pil_kwargs": {"software": WRITER}}
    if kind == "webp":
        return {"pil_kwargs": {"xmp": WRITER.encode()}}
    return {"metadata": {"Software" if kind == "png" else "Creator": WRITER}}
