"""Executing a LAMMPS input with ``pair_style mekrr``, as it would run with a compiled one."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, final

from mekrr_scale.arrays import kept_memory
from mekrr_scale.engines.lammps.compiling import NAME as PLUGIN
from mekrr_scale.engines.lammps.external import FIX, External, Settings, attach, check_lammps, failure
from mekrr_scale.engines.lammps.library import start
from mekrr_scale.engines.lammps.lines import words_of
from mekrr_scale.engines.lammps.script import Script
from mekrr_scale.errors import ConfigError
from mekrr_scale.models import Dispersion, Potential

STYLE = "mekrr"
_RUNS = ("run", "minimize", "rerun", "temper", "neb", "prd", "tad", "dynamical_matrix", "third_order")
_SYNTAX = (
    "write pair_style mekrr, or pair_style mekrr uncertainty N for a look at the grade every N steps; compile yes "
    "compiles the network, dtype float32 runs it in single precision"
)
_LOGICAL = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}  # as LAMMPS reads them
_COEFF = "write pair_coeff * * MODEL ELEMENT ..., with an element for each atom type"


def run_input(
    path: Path | str,
    variables: Mapping[str, Sequence[str]] | None = None,
    log: Path | str | None = None,
    screen: bool = True,
    settings: Settings | None = None,
    dtype: str = "float64",
    device: str = "cpu",
    compile: bool = False,
    dispersion: Dispersion | str | None = None,
) -> int:
    """Execute a LAMMPS input whose pair style is ``mekrr``; returns the status that it quits with, 0 at its end.

    Two commands are not LAMMPS': ``pair_style mekrr [uncertainty N] [compile yes] [dtype float32]``
    and ``pair_coeff * * MODEL ELEMENT ...``. They are replaced by what ``attach`` does. All others are, with variables,
    loops, ``include``, ``if`` and ``jump``.

    Args:
        variables: values of index variables, as ``-var`` gives them.
        log: LAMMPS' log; ``log.lammps`` without a name, none with the name ``none``.
        screen: print what LAMMPS prints.
        settings: ``every`` holds where the input does not say it.
        dtype: of the backbone; holds where the input does not say it.
        compile: the backbone, by torch.compile; holds where the input does not say it.
        dispersion: see ``Potential``.

    Raises:
        ConfigError: LAMMPS is not installed, or the input is wrong; with its file and line.
        SimulationError: LAMMPS has lost atoms, or a limit was exceeded, or something else while it ran.
        ModelError, BackboneError, StructureError: see ``Potential``.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"there is no input {path}")
    options = [word for name, values in (variables or {}).items() for word in ("-var", name, *values)]
    options += ["-log", str(log)] if log is not None else []
    options += [] if screen else ["-screen", "none"]
    lmp = start(options)
    try:
        load = partial(Potential, device=device, dispersion=dispersion)
        running = _Running(lmp, settings or Settings(), load, (compile, dtype))
        with kept_memory():
            return running.run(path)
    finally:
        lmp.close()


@final
class _Running:
    """An input that is being executed, and the model in it."""

    def __init__(self, lmp: Any, settings: Settings, load: Callable[..., Potential], usual: tuple[bool, str]) -> None:
        self.lmp, self.settings, self.load, self.usual = lmp, settings, load, usual
        self.every, self.network = settings.every, usual  # compiled or not, and its dtype; with the input's own words
        self.external: External | None = None
        self.chosen = ""  # the pair style; none yet, or after what forgets it
        self._loaded: tuple[tuple[Path, int, tuple[bool, str]], Potential] | None = None
        handlers = {"pair_style": self._pair_style, "pair_coeff": self._pair_coeff, "clear": self._forget,
                    "read_restart": self._forget, "compute": self._compute, "plugin": self._plugin}  # fmt: skip
        self._script = Script(lmp, self._command, handlers | dict.fromkeys(_RUNS, self._run))

    def run(self, path: Path) -> int:
        return self._script.run(path)

    def _command(self, text: str, running: bool = False) -> None:
        try:
            self.lmp.command(text)
        except Exception as error:  # the only kind that LAMMPS' library raises
            raise failure(error, self.external, running) from error

    def _pair_style(self, text: str) -> None:
        words = self._script.expanded(text)[1:]
        if STYLE in words[1:]:
            raise ConfigError(f"pair_style {words[0]} cannot hold mekrr, which stands alone: {_SYNTAX}")
        self._detach()
        self.chosen = words[0] if words else ""
        if self.chosen != STYLE:
            self._command(text)
            return
        self._script.note(text)
        options = dict(zip(words[1::2], words[2::2], strict=False))
        every = options.pop("uncertainty", str(self.settings.every))
        compile, dtype = options.pop("compile", None), options.pop("dtype", None)
        known = every.isdigit() and compile in (None, *_LOGICAL) and dtype in (None, "float64", "float32")
        if options or len(words) % 2 == 0 or not known:
            raise ConfigError(f"pair_style {' '.join(words)}: {_SYNTAX}")
        check_lammps(self.lmp)
        compiled = self.usual[0] if compile is None else _LOGICAL[compile]
        self.every, self.network = int(every), (compiled, dtype or self.usual[1])
        self._command("pair_style none")

    def _pair_coeff(self, text: str) -> None:
        if self.chosen != STYLE:
            self._command(text)
            return
        self._script.note(text)
        words = self._script.expanded(text)[1:]
        if len(words) < 4 or words[:2] != ["*", "*"]:
            raise ConfigError(f"{text.strip()!r}: {_COEFF}")
        settings = replace(self.settings, every=self.every)
        self.external = attach(self.lmp, self._potential(Path(words[2])), words[3:], settings)

    def _potential(self, path: Path) -> Potential:
        """A model, kept for inputs that come to it again and again."""
        try:
            key = path.resolve(), path.stat().st_mtime_ns, self.network
        except OSError:
            raise ConfigError(f"there is no model {path}; {_COEFF}") from None
        if self._loaded is None or self._loaded[0] != key:
            compile, dtype = self.network
            self._loaded = key, self.load(path, compile=compile, dtype=dtype)
        return self._loaded[1]

    def _detach(self) -> None:
        if self.external is not None:
            for name in (FIX, f"{FIX}_atoms"):
                if self.lmp.has_id("fix", name):
                    self._command(f"unfix {name}")
            self.external = None

    def _forget(self, text: str) -> None:
        self._command(text)
        self.external, self.chosen = None, ""

    def _compute(self, text: str) -> None:
        if self.chosen == STYLE and any(word.endswith("stress/atom") for word in words_of(text)[3:4]):
            raise ConfigError(
                f"{text.strip()!r}: atoms' shares of the stress are not told to LAMMPS; ASE's get_stresses has them"
            )
        self._command(text)

    def _plugin(self, text: str) -> None:
        """An input for the compiled pair style loads what is not needed here."""
        words = self._script.expanded(text)[1:]
        if words[:1] == ["load"] and [Path(word).name for word in words[1:]] == [PLUGIN]:
            self._script.note(text)
        else:
            self._command(text)

    def _run(self, text: str) -> None:
        if not self.chosen:
            raise ConfigError("there is no pair_style before the run (restart files keep none): " + _SYNTAX)
        if self.chosen == STYLE:
            if self.external is None:
                raise ConfigError(f"there is no pair_coeff before the run: {_COEFF}")
            if not self.lmp.has_id("fix", FIX):
                raise ConfigError(f"the input has taken off fix {FIX}, which makes the model's forces")
        with self._interruptible():
            self._command(text, running=True)
        if self.external is not None and self.external.error is not None:
            raise self.external.error

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C ends the run at its next step: an exception on the way into a callback would be lost.

        Raises:
            KeyboardInterrupt: there was one.
        """
        before = signal.getsignal(signal.SIGINT)
        came: list[int] = []

        def interrupt(number: int, _: object) -> None:
            came.append(number)
            if self.external is not None:
                self.external.interrupted = True
            signal.signal(signal.SIGINT, before)

        if self.external is None or before in (None, signal.SIG_IGN):
            yield
            return
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            with suppress(ValueError):
                signal.signal(signal.SIGINT, before)
            if came:
                raise KeyboardInterrupt
