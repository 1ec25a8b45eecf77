"""``slurm``: batch scripts from a few options."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mekrr_scale.cli.batch_scripts import Batch, Launcher, extract_script, finalize_script, fit_script
from mekrr_scale.cli.console import say
from mekrr_scale.cli.options import EXIT_CODES, Overwrite, commands
from mekrr_scale.errors import ConfigError, StructureError
from mekrr_scale.files import publish_text
from mekrr_scale.outputs import SCRIPT, check_outputs

app = commands("Write batch scripts for Slurm.")

Script = Annotated[Path, typer.Option("--script", help="file to write")]
Time = Annotated[str, typer.Option(help="time limit; at it the job requeues itself")]
Partition = Annotated[str, typer.Option(help="Slurm partition")]
Account = Annotated[str, typer.Option(help="Slurm account")]
Gpus = Annotated[int, typer.Option(help="GPUs of each rank; 0 for none")]
Cpus = Annotated[int, typer.Option(help="cores of each rank")]
Memory = Annotated[str, typer.Option("--mem", help="memory of each rank, e.g. 32G")]
Setup = Annotated[str, typer.Option(help="lines before the command, e.g. 'source venv/bin/activate'")]
Notice = Annotated[int, typer.Option(help="seconds before the time limit at which the job puts its state away")]
Options = Annotated[str, typer.Option(help="further options of the command, in quotes")]


@app.command(epilog=EXIT_CODES)
def extract(
    structures: Annotated[list[Path], typer.Argument(help="files to extract")],
    store: Annotated[Path, typer.Option("--store", "-o", help="folder of the store")],
    parts: Annotated[int, typer.Option(help="jobs of the array")] = 16,
    script: Script = Path("extract.sbatch"),
    time: Time = "04:00:00",
    partition: Partition = "",
    account: Account = "",
    gpus: Gpus = 0,
    cpus: Cpus = 8,
    memory: Memory = "",
    setup: Setup = "",
    notice: Notice = 120,
    options: Options = "",
    overwrite: Overwrite = False,
) -> None:
    """An array job that extracts features, and the job that joins its parts.

    Example:

        mekrr-scale slurm extract md.xyz -o features --parts 64 --gpus 1 --options '--derivatives 8'
    """
    for path in structures:
        if not path.exists():
            raise StructureError(f"there is no file {path}")
    second = script.with_name(f"{script.stem}-finalize{script.suffix}")
    check_outputs([(script, SCRIPT, "--script"), (second, SCRIPT, "")], structures, overwrite)
    batch = Batch(time, partition, account, gpus, cpus, memory, setup, notice)
    files = [str(path.resolve()) for path in structures]
    where = str(store.resolve())
    publish_text(script, extract_script(batch, files, where, parts, _split(options)))
    publish_text(second, finalize_script(batch, where))
    say(
        f"{script} and {second}; submit with\n  job=$(sbatch --parsable {script})\n"
        f"  sbatch --dependency=afterok:$job {second}"
    )


@app.command(epilog=EXIT_CODES)
def fit(
    config: Annotated[Path, typer.Argument(help="TOML file of the fit")],
    nodes: Annotated[int, typer.Option(help="nodes")] = 1,
    ranks: Annotated[int, typer.Option(help="ranks on each node: one per GPU, or per socket")] = 1,
    launcher: Annotated[Launcher, typer.Option(help="what starts the ranks")] = "torchrun",
    script: Script = Path("fit.sbatch"),
    checkpoint: Annotated[
        Path | None, typer.Option(help="folder of the fit's state, on a shared file system; default: CONFIG.checkpoint")
    ] = None,
    time: Time = "04:00:00",
    partition: Partition = "",
    account: Account = "",
    gpus: Gpus = 0,
    cpus: Cpus = 8,
    memory: Memory = "",
    setup: Setup = "",
    notice: Notice = 180,
    options: Options = "",
    overwrite: Overwrite = False,
) -> None:
    """A fit on many nodes that survives time limits, preemption and lost ranks.

    Example:

        mekrr-scale slurm fit fit.toml --nodes 8 --ranks 4 --cpus 16 --time 12:00:00 --options '--memory 40G'
    """
    if not config.exists():
        raise ConfigError(f"there is no configuration file {config}")
    check_outputs([(script, SCRIPT, "--script")], [config], overwrite)
    batch = Batch(time, partition, account, gpus, cpus, memory, setup, notice)
    state = checkpoint or Path(f"{config.stem}.checkpoint")  # fits of one folder have one each
    arguments = (str(config.resolve()), nodes, ranks, launcher, str(state.resolve()))
    publish_text(script, fit_script(batch, *arguments, _split(options)))
    say(f"{script}; submit with\n  sbatch {script}")


def _split(options: str) -> list[str]:
    try:
        return shlex.split(options)
    except ValueError as error:
        raise ConfigError(f"--options {options!r}: {error}") from error
