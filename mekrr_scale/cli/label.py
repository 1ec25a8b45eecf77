"""``label``: structures to labelled structures, by a calculator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mekrr_scale.cli.console import progress_bar, say, show
from mekrr_scale.cli.options import CHOICE, EXIT_CODES, Format, Overwrite, Workers, commands
from mekrr_scale.errors import StructureError
from mekrr_scale.outputs import FRAMES, check_outputs

app = commands()


@app.command(epilog=EXIT_CODES)
def label(
    structures: Annotated[list[Path], typer.Argument(help=f"structures to label, in files that ASE reads{CHOICE}")],
    calculator: Annotated[
        str,
        typer.Option(
            "--calculator",
            "-c",
            help="emt, tblite(method='GFN2-xTB'), backbone:chgnet, or any of ASE's: module:Class(arg=1), with plain "
            "values",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="labelled structures: .xyz (.gz, .xz, .bz2), .traj or .db")
    ],
    reuse: Annotated[
        bool,
        typer.Option("--reuse", help="one calculator for all frames of a process; pays where making one takes long"),
    ] = False,
    workers: Workers = None,
    format: Format = None,
    overwrite: Overwrite = False,
) -> None:
    """Energies, forces and stress of structures by a calculator. Resumes: run the same command again after a kill.

    Frames that fail are listed in OUTPUT.failed.json, and the command ends with exit code 3; called again, it tries
    them again.

    Examples:

        mekrr-scale label next.xyz --calculator emt -o labelled.xyz

        mekrr-scale label next.xyz --calculator "tblite(method='GFN2-xTB')" -o labelled.xyz

        mekrr-scale label next.xyz --calculator "ase.calculators.lj:LennardJones(epsilon=0.1)" -o labelled.xyz
    """
    from mekrr_scale.labelling import journal_beside, label

    known = overwrite or journal_beside(output).exists()  # its own output is replaced
    check_outputs([(output, FRAMES, "--output")], structures, known)
    with progress_bar("frames") as bar:
        report = label(structures, output, calculator, workers, reuse, overwrite, bar, format)
    if report.failed:
        from mekrr_scale.report import dressed

        show(dressed(report.tables()[0]))
        total = report.labelled + len(report.failed)
        raise StructureError(
            f"{len(report.failed)} of {total} frames failed; {output} holds the others, {report.failed_file} says why. "
            "The same command tries them again"
        )
    say(report.headline())
