"""The command line ``mekrr-scale``."""

from __future__ import annotations

import sys

from rich.markup import escape

from mekrr_scale.cli.app import app
from mekrr_scale.cli.console import errors
from mekrr_scale.errors import MekrrError

__all__ = ["app", "main"]

INTERRUPTED = 130  # typer's exit code after Ctrl-C


def main() -> None:
    """Run the command line; errors end with one sentence and their exit code (docs/cli.md)."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        app(args=arguments, prog_name="mekrr-scale")
    except SystemExit as end:
        if end.code == INTERRUPTED:
            errors.print("interrupted; what was finished is kept, run the same command again to go on")
        raise
    except (MekrrError, OSError, MemoryError) as error:
        if debug:
            raise
        errors.print(f"[bold red]error:[/] {escape(str(error) or type(error).__name__)}", highlight=False)
        sys.exit(getattr(error, "exit_code", 1))
