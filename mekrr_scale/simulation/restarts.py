"""Restart files of simulations: the state of the atoms and of the random numbers, beside a trajectory."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import numpy as np
from ase import Atoms

from mekrr_scale.errors import ConfigError
from mekrr_scale.files import Document, is_whole, sealed, warn_unsealed
from mekrr_scale.simulation.frames import FrameHash

_FORMAT = "mekrr-scale md 1"


class RestartState(TypedDict):
    """What the file holds."""

    format: str
    plan: Mapping[str, str | float]
    numbers: list[int]
    step: int
    positions: list[list[float]]  # angstrom
    momenta: list[list[float]]  # ASE's units
    cell: list[list[float]]  # angstrom
    generator: Mapping[str, object]
    p_eps: float  # momentum of the barostat
    trajectory_bytes: int
    trajectory_xxh3: NotRequired[str]  # of these bytes; files of 0.1.0 have none


@dataclass(frozen=True)
class RestartFile:
    """``<stem>.restart.json`` beside a trajectory.

    Args:
        identity: what may not change between a run and its continuation.
    """

    trajectory: Path
    identity: Mapping[str, str | float]
    frames: FrameHash = field(default_factory=FrameHash, compare=False)

    @property
    def path(self) -> Path:
        return self.trajectory.with_name(f"{self.trajectory.stem}.restart.json")

    def save(self, atoms: Atoms, step: int, generator: np.random.Generator, p_eps: float = 0.0) -> None:
        """Atomically; with it goes the length of the trajectory."""
        state: RestartState = {
            "format": _FORMAT,
            "plan": dict(self.identity),
            "numbers": atoms.numbers.tolist(),
            "step": step,
            "positions": atoms.positions.tolist(),
            "momenta": atoms.get_momenta().tolist(),
            "cell": atoms.cell.array.tolist(),
            "generator": cast("Mapping[str, object]", generator.bit_generator.state),
            "p_eps": p_eps,
            "trajectory_bytes": (size := self.trajectory.stat().st_size),
            "trajectory_xxh3": self.frames.of(self.trajectory, size),
        }
        temporary = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}")
        try:
            with temporary.open("w", encoding="utf-8") as stream:
                json.dump(sealed(cast(Document, state)), stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def read(self, atoms: Atoms) -> RestartState | None:
        """The state to go on from, if there is one.

        Raises:
            ConfigError: it is damaged, of other atoms or of another simulation.
        """
        if not self.path.exists():
            return None
        try:
            state = json.loads(self.path.read_text(encoding="utf-8"))
            ours, whole = state["format"] == _FORMAT, is_whole(state)
        except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.path} is not a restart file ({error!r}); remove it to start anew") from error
        if whole is False:
            raise ConfigError(f"{self.path} is damaged (its checksum does not fit); remove it to start anew")
        if whole is None:
            warn_unsealed(self.path)
        if not ours or state["numbers"] != atoms.numbers.tolist():
            raise ConfigError(
                f"{self.path} is of another system; remove it to start anew, or choose another trajectory"
            )
        differing = [f"{key} {state['plan'][key]} there, {value} now" for key, value in self.identity.items()
                     if state["plan"][key] != value]  # fmt: skip
        if differing:
            raise ConfigError(f"{self.path} is of another simulation ({'; '.join(differing)}); remove it to start anew")
        return cast(RestartState, state)

    def restore(self, state: RestartState, atoms: Atoms, generator: np.random.Generator) -> None:
        """Put atoms, random numbers and trajectory back to where they were.

        Raises:
            ConfigError: the trajectory has lost frames since.
        """
        atoms.set_cell(state["cell"])
        atoms.positions[:] = state["positions"]
        atoms.set_momenta(state["momenta"], apply_constraint=False)
        generator.bit_generator.state = state["generator"]
        size = self.trajectory.stat().st_size if self.trajectory.exists() else 0
        if size < state["trajectory_bytes"]:
            raise ConfigError(
                f"{self.trajectory} is shorter than when its restart file was written; restore it, or remove the "
                "restart file"
            )
        if state.get("trajectory_xxh3", known := self.frames.of(self.trajectory, state["trajectory_bytes"])) != known:
            raise ConfigError(
                f"the frames in {self.trajectory} have changed since its restart file was written; restore it, or "
                "remove the restart file"
            )
        with self.trajectory.open("rb+") as stream:  # frames behind the restart point come again
            stream.truncate(state["trajectory_bytes"])
