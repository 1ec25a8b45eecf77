"""``fit``: stores to a model. Its flags are those of the plan, and what is the command's own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mekrr_scale.cli.console import draw, out, progress_bar, say, show, warn
from mekrr_scale.cli.job import job, job_bar
from mekrr_scale.cli.options import EXIT_CODES, Overwrite, Timeout, commands, device_of, names
from mekrr_scale.config import FitConfig, load_config, plan_options, with_plan_options
from mekrr_scale.errors import ConfigError
from mekrr_scale.outputs import FIGURE, MODEL, PAGE, REPORT, check_folder, check_outputs, figure_of, write_report
from mekrr_scale.progress import LOGGER

if TYPE_CHECKING:
    from mekrr_scale.checks import CheckReport
    from mekrr_scale.pipeline import FitReport

app = commands()


@app.command(epilog=EXIT_CODES)
@with_plan_options
def fit(
    config: Annotated[Path | None, typer.Argument(help="TOML file; flags below override it")] = None,
    store: Annotated[list[str] | None, typer.Option("--store", "-s", help="store to fit; may be repeated")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="model file to write")] = None,
    structures: Annotated[
        list[Path] | None,
        typer.Option(help="the store's structures: fit their forces without stored tangents (solver falkon)"),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="folder for the state of a long fit; default: beside the model")
    ] = None,
    checkpoint_interval: Annotated[float, typer.Option(help="seconds between states")] = 300.0,
    timeout: Timeout = 1800.0,
    sums: Annotated[
        Path | None, typer.Option(help="folder that keeps the sums of solver direct; shards added later are read alone")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what the fit would take, and stop")] = False,
    plot: Annotated[Path | None, typer.Option(help="parity plot of the cross-validation")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="write errors, candidates, effort and the whole plan as JSON")
    ] = None,
    page: Annotated[
        bool,
        typer.Option("--report/--no-report", help="write a page of errors, folds and advice beside the model (.html)"),
    ] = True,
    check: Annotated[
        bool, typer.Option(help="run the quick checks on the model when it is fitted (at most some 20 s), and warn")
    ] = True,
    overwrite: Overwrite = False,
    *,
    flags: Mapping[str, object],
) -> None:
    """Fit a model to a store; several candidates are cross-validated and the best one taken.

    Examples:

        mekrr-scale fit --store features -o model.mekrr

        mekrr-scale fit fit.toml --alpha 0,0.5,1 --ridge 1e-9,1e-7,1e-5

        mekrr-scale fit --store features --solver falkon --landmarks 5000

        mekrr-scale fit --store silicon --store germanium --store-weight 0.01,1 --mixing learn

        torchrun --nproc-per-node 4 -m mekrr_scale fit fit.toml --memory 40G
    """
    from mekrr_scale.distributed import Checkpoint, StopSignals
    from mekrr_scale.pipeline import fit, resources
    from mekrr_scale.report import page_beside, resource_table
    from mekrr_scale.structures import read_structures

    settings, moved = _settings(config, {"store": store or None, "output": output, **flags})
    plan, target = settings.plan, Path(settings.output)
    device_of(plan.execution.device)
    plot = figure_of(plot)
    beside = page_beside(target) if page else None
    outputs = [
        (target, MODEL, "--output"), (plot, FIGURE, "--plot"), (json_file, REPORT, "--json"),
        (beside, PAGE, "--report"),
    ]  # fmt: skip
    check_outputs(outputs, [config, *(structures or []), plan.landmarks.model], overwrite)
    state = checkpoint or Path(f"{target}.checkpoint")
    check_folder(state, "--checkpoint")
    check_folder(sums, "--sums")
    with job(timeout) as group, StopSignals() as stop:
        planned = resources(settings.store, plan, group)
        if group.rank == 0:
            for line in moved:
                warn(line)
            (out.print if dry_run else show)(resource_table(planned))
        if dry_run:
            return
        kept = Checkpoint(state, {}, group, checkpoint_interval, stop)
        kept.begin()
        with job_bar(group, "rows") as bar:
            frames = read_structures(structures) if structures else None
            report = fit(settings.store, plan, bar, frames, group=group, checkpoint=kept, sums=sums)
        if group.rank == 0:
            deliver(report, target, plot, json_file)
            kept.clear()
            checks = checked(report, plan.execution.device) if check else None
            if beside is not None:
                present(report, settings.store, target, beside, checks)


def checked(report: FitReport, device: str) -> CheckReport | None:
    """What the quick checks find in a fit's model, with a warning for each failure; None where none was run."""
    from mekrr_scale.checks import quick_check

    try:
        with progress_bar("checks") as bar:
            found = quick_check(report.model, device_of(device), progress=bar)
    except Exception as error:  # the model is there: a check that cannot be run is no reason to fail
        warn(f"the model could not be checked: {type(error).__name__}: {error}; it is whole")
        return None
    for line in [] if found is None else found.failed:
        warn(f"{line} (mekrr-scale check)")
    return found


def present(report: FitReport, stores: Sequence[str], target: Path, page: Path, checks: CheckReport | None) -> None:
    """What others should see of a fit."""
    from mekrr_scale.report import write_page

    try:
        write_page(report, stores, page, name=target.name, overwrite=True, checks=checks)
    except Exception as error:  # the model is there: a figure that cannot be drawn is no reason to fail
        warn(f"the page {page} could not be written: {type(error).__name__}: {error}; the model is whole")
    else:
        LOGGER.info("page %s", page)


def settings_given(parameters: Mapping[str, Any]) -> FitConfig:
    """What a fit would do with these parameters of the command, for those who only write them down.

    Raises:
        ConfigError: see ``load_config``.
    """
    flags = {option.key: parameters[option.parameter] for option in plan_options()}
    given = {"store": parameters["store"] or None, "output": parameters["output"], **flags}
    config = parameters["config"]
    return _settings(None if config is None else Path(config), given)[0]


def _settings(config: Path | None, flags: Mapping[str, object]) -> tuple[FitConfig, list[str]]:
    """The plan, and which keys of the file have other names now.

    Raises:
        ConfigError: see ``load_config``; what is wrong with a flag is said of the flag.
    """
    given = [(option.key, option.flag.names[0], flags.get(option.key)) for option in plan_options()]
    for _, flag, text in given:
        if isinstance(text, str) and not names(text):
            raise ConfigError(f"{flag} is empty; give at least one value, or leave it out")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = load_config(config, flags)
    except ConfigError as error:
        for key, flag, value in given:
            _, named, text = str(error).partition(f"{key}: ")
            if named and value is not None:
                raise ConfigError(f"{flag}: {text}") from error
        raise
    return found, [str(each.message) for each in caught if issubclass(each.category, DeprecationWarning)]


def deliver(report: FitReport, target: Path, plot: Path | None, json_file: Path | None) -> None:
    """Tables, the model file and figures."""
    from mekrr_scale.report import dressed, growth_table, parity_plot, trial_table

    report.model.save(target, overwrite=True)  # as was looked at in the beginning
    if report.plan.validation.folds:
        show(trial_table(report))
    if report.growth:
        show(growth_table(report))
    for table in report.tables()[1 + bool(report.growth) :]:
        show(dressed(table))
    if report.outliers:
        done = "they were left out" if report.plan.rows.drop_outliers else "are they right? --drop-outliers drops them"
        warn(f"labels of {len(report.outliers)} structures are far from what other folds' models give; {done}")
    for warning in report.warnings:
        warn(warning)
    write_report(json_file, report.to_dict())
    if plot is not None and len(report.reference):
        folds = report.reference.numpy(), report.predicted.numpy()
        draw(plot, lambda path: parity_plot(path, folds=folds, title="cross-validation", overwrite=True))
    mae = report.model.validation.get("energy_mae")
    shown = "" if not isinstance(mae, float) else f"; cross-validated energy MAE {1e3 * mae:.2f} meV/atom"
    say(f"model {target}: {report.model.landmarks.n_sets} landmarks{shown}")
