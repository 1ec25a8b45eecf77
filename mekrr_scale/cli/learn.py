"""``learn``: from a few frames to a potential that trusts itself, by exploring and labelling."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mekrr_scale.cli.console import progress_bar, say, show
from mekrr_scale.cli.options import EXIT_CODES, commands
from mekrr_scale.outputs import check_folder

app = commands()


@app.command(epilog=EXIT_CODES)
def learn(
    config: Annotated[Path, typer.Argument(help="TOML file of the loop")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="folder of the loop; default: the file's name without its suffix"),
    ] = None,
) -> None:
    """Explore, select, label, extract, fit, until no run exceeds the grade. Resumes: run the same command again.

    A calculator of the form module:Class(...) in the file needs --trust-code. With labels = "wait" the loop writes the
    frames to label, and ends until they are there.

    Example:

        mekrr-scale learn loop.toml -o loop
    """
    from mekrr_scale.workflows import learn

    folder = output or config.with_suffix("")
    check_folder(folder, "--output")
    with progress_bar() as bar:
        report = learn(config, folder, bar)
    from mekrr_scale.report import dressed

    for table in report.tables():
        show(dressed(table))
    say(report.headline())


def check_loop(*, config: Path, trust_code: bool = False, **_: object) -> None:
    """Refuse a file that a batch job would refuse only when its turn has come.

    Raises:
        ConfigError: no such file, a key or value that cannot be, a class as calculator without trust.
        BackboneError: no such backbone.
    """
    from mekrr_scale.backbones import packages_of
    from mekrr_scale.labelling import CalculatorSpec
    from mekrr_scale.workflows import load_learn_plan

    plan = load_learn_plan(config)
    packages_of(plan.features.backbone.name)
    if plan.calculator is not None:
        CalculatorSpec.parse(plan.calculator, from_file=not trust_code)
