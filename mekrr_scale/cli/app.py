"""The program: which commands there are, options before them, and how it ends."""

from __future__ import annotations

import importlib
import logging
import sys
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from mekrr_scale.cli.calls import guarded, is_guarded
from mekrr_scale.cli.console import speaking
from mekrr_scale.cli.ending import INTERRUPTED, flushed, interruptible, printable_streams, say_interrupted, told
from mekrr_scale.cli.threads import settle
from mekrr_scale.errors import ConfigError
from mekrr_scale.version import __version__


@dataclass(frozen=True)
class Place:
    """Where a command stands, and what the list of commands says of it."""

    module: str  # of this room
    panel: str
    help: str  # the first line of its own


_FIT, _USE, _TRANSFER, _KEEP = "From structures to a model", "Using a model", "Transfer learning", "Looking after it"

PLACES = {
    "extract": Place(
        "extract", _FIT, "Structures to a feature store. Resumes: run the same command again after a kill."
    ),
    "tune": Place(
        "tune", _FIT, "Structures to the best model that a time allows. Resumes: run the same command again."
    ),
    "learn": Place(
        "learn",
        _FIT,
        "Explore, select, label, extract, fit, until no run exceeds the grade. Resumes: run the same command again.",
    ),
    "fit": Place("fit", _FIT, "Fit a model to a store; several candidates are cross-validated and the best one taken."),
    "evaluate": Place("evaluate", _FIT, "Errors of a model on labelled structures."),
    "report": Place("report", _FIT, "One page of what a model was fitted to, how good it is and what limits it."),
    "predict": Place("predict", _USE, "Predict energies, per-atom energies, forces and stress; writes extended xyz."),
    "info": Place(
        "info", _USE, "What a model's file holds, what it was trained on, and whether it is whole and predicts here."
    ),
    "check": Place(
        "check", _USE, "Is a model physical where it is to be used? Elasticity, phonons, smoothness, short dynamics."
    ),
    "md": Place("simulate", _USE, "Molecular dynamics. Resumes: the same command goes on from its restart file."),
    "relax": Place(
        "simulate", _USE, "Relax structures, and their cells if asked for; several go into one file, in order."
    ),
    "select": Place(
        "select", _USE, "Choose the structures that a model would learn most from: the next batch for DFT."
    ),
    "label": Place(
        "label",
        _USE,
        "Energies, forces and stress of structures by a calculator. Resumes: run the same command again after a kill.",
    ),
    "lammps": Place("lammps", _USE, "LAMMPS with the forces of a model: run, build, path."),
    "export": Place(
        "export",
        _USE,
        "Write a model as one file for metatomic's engines: ASE, LAMMPS, i-PI and others; or for LAMMPS' ML-IAP.",
    ),
    "explain": Place(
        "explain",
        _USE,
        "Take predictions apart: atoms' and elements' parts of the energy, and the landmarks nearest to them.",
    ),
    "pretrain": Place(
        "train",
        _TRANSFER,
        "Train a backbone from scratch on energies, forces and stress. Resumes: run the same command again.",
    ),
    "finetune": Place(
        "train", _TRANSFER, "Go on training a backbone on other data. Resumes: run the same command again."
    ),
    "distill": Place(
        "transfer",
        _TRANSFER,
        "A cheap student of an expensive teacher: label structures, learn the labels, measure error and speed.",
    ),
    "curve": Place(
        "transfer",
        _TRANSFER,
        "Errors against the number of training structures, for several ways to transfer. Resumes.",
    ),
    "backbones": Place("backbones", _KEEP, "List backbones: which can be used here, and what the others need."),
    "store": Place("store", _KEEP, "Look after feature stores: info, verify, finalize, merge, repack."),
    "slurm": Place("slurm", _KEEP, "Write batch scripts for Slurm."),
    "env": Place("env", _KEEP, "What a bug report needs: versions, machine, devices, job, backbones."),
}


_LOADING = set(PLACES) - {"store", "slurm", "env"}  # commands that load backbones
_BARE = {"lammps": ("build", "path")}  # those of a group that do not


def _loads(name: str, inner: str) -> bool:
    return name in _LOADING and inner not in _BARE.get(name, ())


@cache
def command(name: str) -> Any:
    """A command or group of commands, as typer makes it of its module."""
    module = importlib.import_module(f"mekrr_scale.cli.{PLACES[name].module}")
    for each in module.app.registered_commands:
        if each.callback is not None and not is_guarded(each.callback):
            each.callback = guarded(each.callback, _loads(name, each.callback.__name__))
    made = typer.main.get_command(module.app)
    return getattr(made, "commands", {}).get(name, made)


class Later(TyperCommand):
    """A command whose module is imported when it runs, completes a word or shows its own help."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return command(str(self.name)).make_context(info_name, args, parent, **extra)


class Program(TyperGroup):
    """All commands, none of them imported."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, place in PLACES.items():
            self.commands[name] = Later(
                name, help=place.help, rich_help_panel=place.panel, rich_markup_mode=self.rich_markup_mode
            )

    def invoke(self, ctx: Any) -> Any:
        """A command, with its remarks as loud as the options before it say."""
        given = ctx.params
        with speaking(logging.DEBUG if given["verbose"] else logging.ERROR if given["quiet"] else logging.INFO):
            return super().invoke(ctx)


app = typer.Typer(
    cls=Program,
    help="Kernel interatomic potentials on features of pretrained graph networks, at scale.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Add --debug to any command for the traceback of an error.",
)


def _version(asked: bool) -> bool:
    if asked:
        print(__version__)
        raise typer.Exit
    return asked


@app.callback()
def _options(  # what they do, ``Program.invoke`` does
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_version)
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell what is being done, too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors alone.")] = False,
) -> None:
    if verbose and quiet:
        raise ConfigError("--verbose and --quiet: give one of them")


def main() -> None:
    """Run the command line; errors end with one sentence and their exit code (docs/cli.md)."""
    settle()
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    printable_streams()
    with interruptible():
        try:
            app(args=arguments, prog_name="mekrr-scale")
        except SystemExit as end:
            if end.code == INTERRUPTED:
                say_interrupted()
            code = end.code
        except KeyboardInterrupt:
            say_interrupted()
            code = INTERRUPTED
        except Exception as error:
            if debug:
                raise
            code = told(error)
    flushed()
    sys.exit(code)
