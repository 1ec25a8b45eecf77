"""Options that every batch script takes, written once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from mekrr_scale.cli.batch_scripts import Batch

_OPTIONS: dict[str, tuple[Any, Any]] = {  # annotation and default
    "time": (Annotated[str, typer.Option(help="time limit; at it the job requeues itself")], "04:00:00"),
    "partition": (Annotated[str, typer.Option(help="Slurm partition")], ""),
    "account": (Annotated[str, typer.Option(help="Slurm account")], ""),
    "qos": (Annotated[str, typer.Option(help="quality of service")], ""),
    "constraint": (Annotated[str, typer.Option(help="features that nodes must have, e.g. 'a100&ib'")], ""),
    "gpus": (
        Annotated[str, typer.Option(help="GPUs of each rank, with a type if wanted: 1 or a100:1; 0 for none")],
        "0",
    ),
    "cpus": (Annotated[int, typer.Option(help="cores of each rank")], 8),
    "memory": (Annotated[str, typer.Option("--mem", help="memory of each rank, e.g. 32G")], ""),
    "setup": (Annotated[str, typer.Option(help="lines before the command, e.g. 'source venv/bin/activate'")], ""),
    "notice": (
        Annotated[int, typer.Option(help="seconds before the time limit at which the job puts its state away")],
        180,
    ),
    "requeues": (Annotated[int, typer.Option(help="how often a job goes back into the queue at its limit")], 50),
    "mail": (Annotated[str, typer.Option(help="address that is told of the job's end")], ""),
    "logs": (Annotated[Path | None, typer.Option(help="folder of the log files; it is made")], None),
    "sbatch": (
        Annotated[
            list[str] | None,
            typer.Option(help="any other option of sbatch, e.g. '--exclusive'; may be repeated"),
        ],
        None,
    ),
}


def with_batch_options(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose last parameter ``batch`` is made of the options that scripts share, but for some."""
    return partial(_with_options, names=[name for name in _OPTIONS if name not in without])


def _with_options(command: Callable[..., None], names: Sequence[str]) -> Callable[..., None]:
    own = inspect.signature(command, eval_str=True)
    kept = [parameter for name, parameter in own.parameters.items() if name != "batch"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_OPTIONS[name][1], annotation=_OPTIONS[name][0])
        for name in names
    ]

    def run(**given: Any) -> None:
        asked = {name: given.pop(name) for name in names}
        asked.setdefault("notice", 30)  # of no job that is not told
        extra, logs = tuple(asked.pop("sbatch") or ()), asked.pop("logs")
        batch = Batch(**asked, extra=extra, logs="" if logs is None else str(logs.resolve()))
        if logs is not None:
            logs.mkdir(parents=True, exist_ok=True)  # Slurm ends jobs without a word where it is not there
        command(**given, batch=batch)

    run.__doc__, run.__name__ = command.__doc__, command.__name__
    run.__signature__ = inspect.Signature([*kept, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*kept, *added)}
    return run
