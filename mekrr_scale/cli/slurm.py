"""``slurm``: batch scripts from a few options; what they will run is checked when they are written."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mekrr_scale.cli.batch_options import with_batch_options
from mekrr_scale.cli.batch_scripts import (
    Batch,
    Launcher,
    command_script,
    extract_script,
    finalize_script,
    fit_script,
    tune_script,
)
from mekrr_scale.cli.console import say
from mekrr_scale.cli.evaluate import check_evaluate
from mekrr_scale.cli.extract import extract_plan
from mekrr_scale.cli.fit import settings_given
from mekrr_scale.cli.learn import check_loop
from mekrr_scale.cli.options import EXIT_CODES, Overwrite, commands
from mekrr_scale.cli.simulate import md_plan
from mekrr_scale.cli.train import finetune_plan
from mekrr_scale.cli.transfer import curve_plan
from mekrr_scale.cli.tune import check_plan
from mekrr_scale.errors import ConfigError
from mekrr_scale.files import publish_text
from mekrr_scale.outputs import SCRIPT, check_outputs

app = commands("Write batch scripts for Slurm.")

Options = Annotated[str, typer.Option(help="further options of the command, in quotes")]
Words = Annotated[list[str], typer.Argument(help="arguments of the command, as it takes them")]

_USAGE: type[Exception] = typer.BadParameter.__mro__[1]  # what a command line is refused with


@app.command(epilog=EXIT_CODES)
@with_batch_options()
def extract(
    structures: Annotated[list[Path], typer.Argument(help="files to extract")],
    store: Annotated[Path, typer.Option("--store", "-o", help="folder of the store")],
    parts: Annotated[int, typer.Option(help="jobs of the array")] = 16,
    script: Annotated[Path, typer.Option("--script", help="file to write")] = Path("extract.sbatch"),
    options: Options = "",
    overwrite: Overwrite = False,
    *,
    batch: Batch,
) -> None:
    """An array job that extracts features, and the job that joins its parts.

    Example:

        mekrr-scale slurm extract md.xyz -o features --parts 64 --gpus 1 --options '--derivatives 8'
    """
    second = _two_scripts(script, "finalize", structures, overwrite)
    further, files, where = _split(options), [str(path.resolve()) for path in structures], str(store.resolve())
    extract_plan(**_inner("extract", [*files, "--store", where, *further]))
    publish_text(script, extract_script(batch, files, where, parts, further))
    publish_text(second, finalize_script(batch, where))
    _say_two(script, second, "afterok")


@app.command(epilog=EXIT_CODES)
@with_batch_options()
def fit(
    config: Annotated[Path, typer.Argument(help="TOML file of the fit")],
    nodes: Annotated[int, typer.Option(help="nodes")] = 1,
    ranks: Annotated[int, typer.Option(help="ranks on each node: one per GPU, or per socket")] = 1,
    launcher: Annotated[Launcher, typer.Option(help="what starts the ranks")] = "torchrun",
    script: Annotated[Path, typer.Option("--script", help="file to write")] = Path("fit.sbatch"),
    checkpoint: Annotated[
        Path | None, typer.Option(help="folder of the fit's state, on a shared file system; default: CONFIG.checkpoint")
    ] = None,
    options: Options = "",
    overwrite: Overwrite = False,
    *,
    batch: Batch,
) -> None:
    """A fit on many nodes that survives time limits, preemption and lost ranks.

    Example:

        mekrr-scale slurm fit fit.toml --nodes 8 --ranks 4 --cpus 16 --time 12:00:00 --options '--memory 40G'
    """
    if not config.exists():
        raise ConfigError(f"there is no configuration file {config}")
    check_outputs([(script, SCRIPT, "--script")], [config], overwrite)
    further = _split(options)
    settings_given(_inner("fit", [str(config), *further]))
    state = checkpoint or Path(f"{config.stem}.checkpoint")  # fits of one folder have one each
    arguments = (str(config.resolve()), nodes, ranks, launcher, str(state.resolve()))
    publish_text(script, fit_script(batch, *arguments, further))
    say(f"{script}; submit with\n  sbatch {script}")


@app.command(epilog=EXIT_CODES)
@with_batch_options()
def tune(
    structures: Annotated[list[Path], typer.Argument(help="labelled structures to learn from")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the tuning, on a shared file system")],
    parts: Annotated[int, typer.Option(help="jobs of the array that the race is spread over")] = 4,
    script: Annotated[Path, typer.Option("--script", help="file to write")] = Path("tune.sbatch"),
    options: Options = "",
    overwrite: Overwrite = False,
    *,
    batch: Batch,
) -> None:
    """An array job in which candidates race, and the job that makes the model of the winner.

    Example:

        mekrr-scale slurm tune train.xyz -o tuned --parts 4 --cpus 16 --options '--test test.xyz --budget 2h'
    """
    from mekrr_scale.structures import require_file

    second = _two_scripts(script, "model", structures, overwrite)
    files = [str(path.resolve()) for path in structures]
    words = ["tune", *files, "--output", str(output.resolve()), *_split(options)]
    given = _inner("tune", words[1:])
    check_plan(**given)
    for path in given["test"] or ():
        require_file(path)
    publish_text(script, tune_script(batch, words, parts))
    publish_text(second, command_script(batch, words))
    _say_two(script, second, "afterany")


def _two_scripts(script: Path, what: str, inputs: Sequence[Path], overwrite: bool) -> Path:
    """The second of two, once inputs are known to be there and both to be writable."""
    from mekrr_scale.structures import require_file

    for path in inputs:
        require_file(path)
    check_outputs([(script, SCRIPT, "--script")], inputs, overwrite)
    second = script.with_name(f"{script.stem}-{what}{script.suffix}")
    check_outputs([(second, SCRIPT, "")], inputs, overwrite)
    return second


def _say_two(script: Path, second: Path, after: str) -> None:
    say(
        f"{script} and {second}; submit with\n  job=$(sbatch --parsable {script})\n"
        f"  sbatch --dependency={after}:$job {second}"
    )


def _job(
    name: str,
    about: str,
    example: str,
    *without: str,
    resumes: bool = True,
    check: Callable[..., object],
) -> None:
    """Add the command that writes a script of one other command.

    Args:
        without: options of batch scripts that it does not take.
        resumes: whether the job goes on where it was when it is run again.
        check: refuses what the command would refuse when the job's turn has come.
    """

    def write(
        words: Words,
        script: Annotated[Path, typer.Option("--script", help="file to write")] = Path(f"{name}.sbatch"),
        options: Options = "",
        overwrite: Overwrite = False,
        *,
        batch: Batch,
    ) -> None:
        check_outputs([(script, SCRIPT, "--script")], [], overwrite)
        line = [*words, *_split(options)]
        check(**_inner(name, line))
        publish_text(script, command_script(batch, [name, *line], resumes))
        say(f"{script}; submit with\n  sbatch {script}")

    write.__doc__ = f"{about}\n\nExample:\n\n    mekrr-scale slurm {name} {example}\n"
    app.command(name, epilog=EXIT_CODES)(with_batch_options(*without)(write))


_job(
    "evaluate",
    "Errors of a model on labelled structures, as a job.",
    "model.mekrr test.xyz --gpus 1 --options '--json errors.json'",
    *("notice", "requeues"),  # it would begin anew
    resumes=False,
    check=check_evaluate,
)
_job(
    "md",
    "Molecular dynamics that goes on from its restart file when its time is over.",
    "model.mekrr start.xyz --gpus 1 --options '-o run.xyz --steps 1000000'",
    check=md_plan,
)
_job(
    "finetune",
    "Training of a backbone that goes on from its state when its time is over.",
    "train.xyz --gpus 1 --options '-o tuned.pt --steps 20000'",
    check=finetune_plan,
)
_job(
    "learn",
    "A loop of exploring, labelling and fitting that goes on where it was when its time is over.",
    "loop.toml --cpus 16 --options '-o loop'",
    "gpus",  # its calculators and dynamics run on CPUs
    check=check_loop,
)
_job(
    "curve",
    "Errors against the number of training structures; runs that are finished are not made again.",
    "train.xyz --options '--test test.xyz -o curve'",
    "gpus",  # it runs on CPUs
    check=curve_plan,
)


def _inner(name: str, line: Sequence[str]) -> dict[str, Any]:
    """What a command will be given.

    Raises:
        ConfigError: options that it does not have, or values that it does not take: said now, and not by a job that
            has waited for days.
    """
    from mekrr_scale.cli.app import command

    try:
        context = command(name).make_context(name, list(line))
    except _USAGE as error:
        told = getattr(error, "format_message", error.__str__)()
        raise ConfigError(f"{name} would refuse this: {told}") from error
    found: dict[str, Any] = context.params
    return found


def _split(options: str) -> list[str]:
    try:
        return shlex.split(options)
    except ValueError as error:
        raise ConfigError(f"--options {options!r}: {error}") from error
