"""Pages of models: of a fit when it ends, and of a model with what stands beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ase import Atoms

from mekrr_scale.checks import CheckReport
from mekrr_scale.files import told_apart
from mekrr_scale.models import Model, Potential, as_potential
from mekrr_scale.pipeline import Evaluation, FitReport, evaluate
from mekrr_scale.progress import Progress
from mekrr_scale.report.advising import advice
from mekrr_scale.report.chart import SetAtoms, atoms_of_test, charted
from mekrr_scale.report.gathering import results_of, results_of_model
from mekrr_scale.report.page import read_page, save_html
from mekrr_scale.report.results import Results
from mekrr_scale.report.surveying import surveyed_data
from mekrr_scale.report.testing import with_evaluation
from mekrr_scale.store import FeatureStore, survey
from mekrr_scale.structures import LabelKeys, is_deepmd, read_structures


def write_page(
    fit: FitReport,
    stores: Sequence[FeatureStore | Path | str],
    path: Path | str,
    tests: Mapping[str, Evaluation] | None = None,
    name: str = "model",
    overwrite: bool = False,
    checks: CheckReport | None = None,
) -> Results:
    """One HTML page of a fit: data, folds, errors with intervals, calibration, learning curve, map of environments.

    Args:
        stores: that were fitted.
        path: of the page (.html).
        tests: evaluations on tests, by name.
        name: of the model.
        overwrite: a file that is no page of the package's may be replaced.
        checks: what ``quick_check`` found, or ``check``.

    Returns:
        The numbers of the page.

    Raises:
        ConfigError: a place that cannot or must not be written to.
    """
    found = results_of(fit, stores, name, checks)
    for test, evaluation in (tests or {}).items():
        found = with_evaluation(found, evaluation, test)
    save_html(found, path, overwrite)
    return found


def page_beside(model: Path | str) -> Path:
    """Where a fit writes the page of a model: its name with .html."""
    return Path(model).with_suffix(".html")


def results_beside(model: Model, path: Path) -> Results:
    """What the page beside a model's file says, where it is that model's; else what the model tells alone."""
    beside = page_beside(path)
    if beside.is_file():
        found = read_page(beside)
        if found.about.coefficients == model.provenance.get("coefficients_sha256"):
            return found
    return results_of_model(model, path.name)


def with_tests(
    found: Results,
    model: Potential | Model,
    tests: Sequence[Path],
    stores: Sequence[Path] = (),
    keys: LabelKeys | None = None,
    format: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Results:
    """With what stores hold, and with errors on tests.

    Args:
        model: a model is enough for stores.
        tests: files of labelled structures, or stores, whose energies are compared alone. Those of one name are
            told apart by their paths.
        stores: that the model was fitted to; the map of environments is drawn again with the tests on it. Without
            them those of the page are taken, where they are still there.
    """
    given = model if isinstance(model, Model) else model.model
    opened = [FeatureStore(path) for path in stores or _still_there(found)]
    if opened:
        found = found.but(data=found.data or surveyed_data(given, opened, survey(opened)))
    atoms: list[SetAtoms] = []
    sure = given.posterior is not None
    for path, name in zip(tests, told_apart(tests), strict=True):
        if path.is_dir() and not is_deepmd(path):
            found = with_evaluation(found, evaluate(given, path, uncertainty=sure, progress=progress), name)
            continue
        potential = as_potential(model)
        frames: list[Atoms] = list(read_structures(path, format))
        one = evaluate(potential, frames, keys, progress=progress, uncertainty=sure, workers=workers)
        found = with_evaluation(found, one, name, frames)
        atoms.append(atoms_of_test(potential, one, frames, name))
    if opened and (atoms or found.chart is None):
        found = found.but(chart=charted(opened, {}, atoms, found.chart))
    return found.but(advice=advice(found))


def _still_there(found: Results) -> list[Path]:
    """The stores that a page was made of."""
    named = [] if found.data is None else [Path(store) for store in found.data.stores]
    return named if all((path / "manifest.json").is_file() for path in named) else []
