"""Python processes as forks of one that has torch and the networks' packages loaded, whose import takes seconds.

A fork has the arguments, folder, environment, stdin, stdout and stderr of whoever asked for it. What tests the start of
a process starts a real one.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import socket
import socketserver
import stat
import subprocess
import sys
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).parents[1]
LOADED = ("torch", "sevenn.checkpoint", "chgnet.model", "matplotlib.pyplot", "scipy.stats", "ase.io", "ase.optimize")
"""Loaded before the first fork, as far as installed; nothing of ours, which reads the environment."""

PROGRAMS = {"python": [], "mekrr-scale": ["-m", "mekrr_scale"]}
PROGRAM = """\
#!{python} -SE
import json, os, socket, sys
asked = dict(arguments={first} + sys.argv[1:], folder=os.getcwd(), environment=dict(os.environ))
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"-"], [0, 1, 2])
    server.sendall(json.dumps(asked).encode() + b"\\n")
    code = int(server.makefile().read().split()[-1])
    sys.exit(code if code >= 0 else 128 - code)
"""


class Process:
    """As ``subprocess.Popen``, of ``python`` with arguments; its output is kept in files."""

    def __init__(self, address: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        kept = Path(mkdtemp(dir=Path(address).parent))
        self._written = [kept / "out", kept / "err"]
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(address)
        with open(os.devnull) as nothing, self._written[0].open("w") as out, self._written[1].open("w") as err:
            socket.send_fds(self._server, [b"-"], [nothing.fileno(), out.fileno(), err.fileno()])
        asked = {"arguments": list(arguments), "folder": str(ROOT), "environment": dict(environment)}
        self._server.sendall(json.dumps(asked).encode() + b"\n")
        self.pid = int(self._line())

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            found = self._server.recv(1)
            assert found, "the process that is forked has ended"
            line += found
        return line

    def wait(self, timeout: float | None = None) -> int:
        """
        Raises:
            TimeoutError: it still runs.
        """
        if self.returncode is None:
            self._server.settimeout(timeout)
            try:
                self.returncode = int(self._line())
            except BlockingIOError as error:  # what a timeout of 0 gives
                raise TimeoutError from error
            self._server.close()
        return self.returncode

    def poll(self) -> int | None:
        with suppress(TimeoutError):
            self.wait(0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """(standard output, errors), when it has ended."""
        self.wait(timeout)
        out, err = (written.read_text() for written in self._written)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """The process that is forked."""

    def __init__(self, folder: Path, address: str) -> None:
        self.programs = folder
        """A folder with the programs ``python`` (for ``-c`` and ``-m``) and ``mekrr-scale``."""
        self._address = address
        for name, first in PROGRAMS.items():
            program = folder / name
            program.write_text(PROGRAM.format(python=sys.executable, address=address, first=first))
            program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def start(self, *arguments: str, environment: Mapping[str, str] = os.environ) -> Process:
        """``python -m module ...`` or ``python -c code ...``, in the repository."""
        return Process(self._address, arguments, environment)


@contextmanager
def forks() -> Iterator[Forks]:
    with TemporaryDirectory(prefix="warm") as name:
        address = f"{name}/socket"
        own = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        with subprocess.Popen([sys.executable, "-m", "tests.warm", address], env=own, stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == b"ready\n"
                yield Forks(Path(name), address)
            finally:
                server.terminate()


class Request(socketserver.StreamRequestHandler):
    """Two lines are answered: the process that does what was asked, and how it ended."""

    def handle(self) -> None:
        _, descriptors, *_ = socket.recv_fds(self.request, 1, 3)
        asked = json.loads(self.rfile.readline())
        process = os.fork()
        if process == 0:
            become(asked["arguments"], Path(asked["folder"]), asked["environment"], descriptors)
        self.wfile.write(f"{process}\n".encode())
        _, status = os.waitpid(process, 0)
        self.wfile.write(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def become(arguments: list[str], folder: Path, environment: dict[str, str], descriptors: list[int]) -> NoReturn:
    """That Python."""
    for own, theirs in enumerate(descriptors):
        os.dup2(theirs, own)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code = run(*arguments)
    for stream in (sys.stdout, sys.stderr):
        with suppress(BrokenPipeError):
            stream.flush()
    os._exit(code)


def run(kind: str, *arguments: str) -> int:
    """The exit code of ``python -c code`` or ``python -m module``."""
    sys.path[0] = os.getcwd()
    sys.argv = [kind, *arguments[1:]]
    try:
        if kind == "-c":
            exec(compile(arguments[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            assert kind == "-m", f"a fork runs no script: {kind}"
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:  # as the interpreter does at its end
        traceback.print_exc()
        return 1
    return 0


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    max_children = 16


def serve(address: str) -> None:
    for name in LOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    with Server(address, Request) as server:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1])
