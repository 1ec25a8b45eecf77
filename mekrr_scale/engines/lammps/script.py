"""Inputs of LAMMPS, executed command by command, so that some commands can be somebody else's.

LAMMPS' library takes no new commands, and does not tell where its reader is in a file. So files, labels and jumps are
followed here, and everything else (variables, formulas, the truth of an ``if``) is left to LAMMPS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, final

from mekrr_scale.engines.lammps.library import told
from mekrr_scale.engines.lammps.lines import commands_of, without_comment, words_of
from mekrr_scale.errors import ConfigError, MekrrError

_DEEPEST = 16  # included files, as in LAMMPS
_TRUTH = "mekrr_if"  # the variable that holds it

Handler = Callable[[str], None]  # of a command's text


@final
class _Reading:
    """A file that is being read."""

    def __init__(self, path: Path) -> None:
        self.line = 0  # of the command that is executed
        self.begin(path)

    def begin(self, path: Path) -> None:
        """Read a file, or the same one again, from its beginning."""
        self.path = path
        self._left = _commands_of(path)

    def next(self) -> str | None:
        """The next command."""
        self.line, text = next(self._left, (self.line, None))
        return text


@final
class Script:
    """Reads inputs, and gives each command to whom it belongs.

    Args:
        lmp: LAMMPS' Python library.
        command: takes a command that is LAMMPS' own.
        handlers: take commands of some names instead.
    """

    def __init__(self, lmp: Any, command: Callable[[str], None], handlers: Mapping[str, Handler]) -> None:
        self.lmp, self.command = lmp, command
        self.handlers = handlers
        self._control: dict[str, Callable[[list[str], str], None]] = {
            "include": self._on_include, "jump": self._on_jump, "label": self._on_label, "next": self._on_next,
            "if": self._on_if, "quit": self._on_quit, "partition": self._on_partition,
        }  # fmt: skip
        self._status: int | None = None
        self._files: list[_Reading] = []
        self._label: str | None = None  # that is looked for
        self._skip_jump = False

    def run(self, path: Path) -> int:
        """Execute a file; returns the status that it quits with, 0 at its end.

        Raises:
            MekrrError: with the file and the line where it came up.
        """
        try:
            self._include(path)
            return self._status or 0
        except MekrrError as error:
            at = self._files[-1] if self._files else None
            error.args = (str(error) if at is None else f"{at.path}, line {at.line}: {error}",)
            raise

    def _include(self, path: Path) -> None:
        if len(self._files) == _DEEPEST:
            raise ConfigError(f"{path}: files are included in one another {_DEEPEST} times")
        reading = _Reading(path)
        self._files.append(reading)
        while self._status is None and (text := reading.next()) is not None:
            self.execute(text)
        if self._label is not None:
            raise ConfigError(f"there is no label {self._label} in {reading.path}")
        self._files.pop()

    def execute(self, text: str) -> None:
        """One command, unless a label is looked for."""
        words = words_of(text)
        name = words[0] if words else ""
        if "$" in name:
            name = "".join(self.expanded(name)[:1])
        if self._status is not None:
            return
        if self._label is not None:
            if name == "label":
                self._on_label(self.expanded(text)[1:], text)
        elif name in self._control:
            self.note(text)
            self._control[name](self.expanded(text)[1:], text)
        else:
            if name == "run" and "every" in words:
                self._check_every(words)
            self.handlers.get(name, self.command)(text)

    def note(self, text: str) -> None:
        """Let a command that is not LAMMPS' stand in its log, as a comment."""
        self.command("# " + " ".join(text.split()))

    def expanded(self, text: str) -> list[str]:
        """The words of a command with variables put in by LAMMPS, which leaves those within quotes for later.

        Raises:
            ConfigError: there is no such variable, or quotes do not match.
        """
        bare = without_comment(text)
        if "$" in bare:
            try:
                bare = self.lmp.expand(bare)
            except Exception as error:  # the only kind that LAMMPS' library raises
                raise ConfigError(f"variables of {text.strip()!r} cannot be put in: {told(error)}") from error
        return words_of(bare)

    def _check_every(self, words: list[str]) -> None:
        """Commands within ``run N every M`` are read inside of LAMMPS.

        Raises:
            ConfigError: one of them is not LAMMPS'.
        """
        inner = " ".join(words[words.index("every") + 1 :])
        for name in (*self._control, *self.handlers):
            if name != "if" and re.search(rf"(?<!\w){name}(?!\w)", inner):
                raise ConfigError(f"run every cannot execute {name}; write a loop of run and jump instead")

    def _on_include(self, words: list[str], _: str) -> None:
        if len(words) != 1:
            raise ConfigError("include takes the name of one file")
        self._include(Path(words[0]))

    def _on_label(self, words: list[str], _: str) -> None:
        if len(words) != 1:
            raise ConfigError("label takes one name")
        if words[0] == self._label:
            self._label = None

    def _on_jump(self, words: list[str], _: str) -> None:
        if len(words) not in (1, 2):
            raise ConfigError("jump takes a file, or SELF, and a label")
        if self._skip_jump:
            self._skip_jump = False
            return
        at = self._files[-1]
        at.begin(at.path if words[0] == "SELF" else Path(words[0]))
        self._label = words[1] if len(words) == 2 else None

    def _on_next(self, words: list[str], text: str) -> None:
        self.command(text)
        self._skip_jump = bool(words) and not self.lmp.has_id("variable", words[0])  # which LAMMPS deletes at its end

    def _on_if(self, words: list[str], text: str) -> None:
        for truth, commands in _branches(words, text):
            if truth is None or self._holds(truth):
                for each in commands:
                    self.execute(each)
                return

    def _holds(self, truth: str) -> bool:
        self.command(f'if """{truth}""" then "variable {_TRUTH} equal 1" else "variable {_TRUTH} equal 0"')
        return bool(self.lmp.extract_variable(_TRUTH))

    def _on_quit(self, words: list[str], _: str) -> None:
        if words and not words[0].lstrip("-").isdigit():
            raise ConfigError(f"quit {words[0]}: the status is a whole number")
        self._status = int(words[0]) if words else 0

    def _on_partition(self, *_: object) -> None:
        raise ConfigError("partition: there is one rank, which has no partitions; take the command alone")


def _branches(words: list[str], text: str) -> list[tuple[str | None, list[str]]]:
    """(truth, commands) of an ``if``, an ``elif`` and so on; of ``else`` without a truth.

    Raises:
        ConfigError: it is not written so.
    """
    found: list[tuple[str | None, list[str]]] = []
    rest = [*words[:1], *words[2:]] if words[1:2] == ["then"] else []
    first = True
    while rest:
        truth = None if not first and rest[0] == "else" else rest[0 if first else 1 : 1 if first else 2]
        begin = 1 if first or truth is None else 2
        end = next((k for k in range(begin, len(rest)) if rest[k] in ("elif", "else")), len(rest))
        found.append((truth[0] if truth else None, rest[begin:end]))
        rest, first = rest[end:], False
    if not found or not all(commands for _, commands in found):
        raise ConfigError(f"{text.strip()!r}: write if TRUTH then COMMAND ... elif TRUTH COMMAND ... else COMMAND ...")
    return found


def _commands_of(path: Path) -> Iterator[tuple[int, str]]:
    try:
        return commands_of(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
