"""How the program ends: one line and an exit code, whatever happened."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from mekrr_scale.cli.console import errors, fail
from mekrr_scale.errors import MekrrError

INTERRUPTED = 130  # typer's exit code after Ctrl-C
UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h


def told(error: Exception, place: str = "") -> int:
    """Say what ended the work, in one line; of what nobody expected a report is written. Returns the exit code."""
    code = code_of(error)
    if _is_out_of_memory(error):
        fail(
            f"there is not enough memory ({_first_line(error)}); ask for less at a time (--memory, smaller files)",
            place,
        )
    elif code != UNEXPECTED:
        fail(str(error) or type(error).__name__, place)
    else:
        path = _reported(error)
        where = (
            "no report could be written" if path is None else f"a report is in {path}; please send it with a bug report"
        )
        fail(f"something unexpected happened: {type(error).__name__}: {_first_line(error)}; {where}", place)
    return code


def code_of(error: Exception) -> int:
    """The exit code of what ended the work (docs/cli.md)."""
    if isinstance(error, MekrrError):
        return error.exit_code
    return 1 if isinstance(error, OSError) or _is_out_of_memory(error) else UNEXPECTED


def _is_out_of_memory(error: Exception) -> bool:
    """Torch raises its own kinds."""
    text = str(error)
    told = "out of memory" in text or "can't allocate memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and told)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _reported(error: Exception) -> Path | None:
    """A file with what a bug report needs: the traceback, the command, the versions."""
    from mekrr_scale.cli.env import environment, lines_of

    name = f"mekrr-scale-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    text = "\n".join([
        f"command: {shlex.join(['mekrr-scale', *sys.argv[1:]])}",
        *lines_of(environment(load=False)),
        "",
        *traceback.format_exception(error),
    ])  # fmt: skip
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        with suppress(OSError):
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
            return folder / name
    return None


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, Ctrl-C ends the work in order; a second one at once, without a word."""
    before = None
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is in the background of a script
        with suppress(ValueError):  # not in the main thread
            before = signal.signal(signal.SIGINT, _interrupt)
    yield
    # after an interruption a second one stays at hand until the process is gone
    if before is not None and signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, before)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGINT, _at_once)
    raise KeyboardInterrupt


def _at_once(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(INTERRUPTED)


def say_interrupted() -> None:
    """The line that an interruption ends with."""
    errors.print("interrupted; what was finished is kept, run the same command again to go on", soft_wrap=True)


def printable_streams() -> None:
    """Names of files may hold what the terminal's encoding has not."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def flushed() -> None:
    """Write out what is left; a reader that has gone is no news."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
