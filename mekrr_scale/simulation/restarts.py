"""Restart files of simulations: the state of the atoms and of the random numbers, beside a trajectory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import numpy as np
from ase import Atoms

from mekrr_scale.errors import ConfigError
from mekrr_scale.files import Document, is_whole, publish_text, sealed, warn_unsealed
from mekrr_scale.progress import LOGGER
from mekrr_scale.simulation.frames import FrameHash
from mekrr_scale.simulation.identity import CONTENTS
from mekrr_scale.structures import read_structures

_FORMAT = "mekrr-scale md 1"
_REMEDY = "choose another output, or begin anew with --overwrite"
_SAME_ENERGY = 1e-4  # eV/atom, by which a calculation that is repeated may differ


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
    force_eps: NotRequired[float]  # force on it, from before the last half step; 0.1.0 did not keep it
    known: NotRequired[Mapping[str, float]]  # of the uncertainty, when it was looked at last
    energy: NotRequired[float]  # eV, without that of constraints; by a calculator that may be another under its name
    trajectory_bytes: int
    trajectory_xxh3: NotRequired[str]  # of these bytes; files of 0.1.0 have none
    trajectory: NotRequired[str]  # its name; files of 0.1.0 do not tell


def beside(trajectory: Path, ending: str) -> Path:
    """What lies beside a trajectory; two of one stem share nothing."""
    name = trajectory.stem if trajectory.suffix == ".xyz" else trajectory.name
    return trajectory.with_name(f"{name}.{ending}" if trajectory.suffix else f"{name}.md.{ending}")


@dataclass(frozen=True)
class RestartFile:
    """``<stem>.restart.json`` beside a trajectory (``<name>.restart.json`` where the suffix is not .xyz).

    Args:
        identity: what may not change between a run and its continuation.
    """

    trajectory: Path
    identity: Mapping[str, str | float]
    frames: FrameHash = field(default_factory=FrameHash, compare=False)

    @property
    def path(self) -> Path:
        return beside(self.trajectory, "restart.json")

    def save(
        self,
        atoms: Atoms,
        step: int,
        generator: np.random.Generator,
        barostat: Mapping[str, float] | None = None,
        known: Mapping[str, float] | None = None,
        energy: float | None = None,
    ) -> None:
        """Atomically; with it goes the length of the trajectory.

        Args:
            barostat: its ``p_eps`` and ``force_eps``.
            known: what frames say of the uncertainty until it is looked at again.
            energy: see ``require_potential``.
        """
        held = barostat or {}
        state: RestartState = {
            "format": _FORMAT,
            "plan": dict(self.identity),
            "numbers": atoms.numbers.tolist(),
            "step": step,
            "positions": atoms.positions.tolist(),
            "momenta": atoms.get_momenta().tolist(),
            "cell": atoms.cell.array.tolist(),
            "generator": cast("Mapping[str, object]", generator.bit_generator.state),
            "p_eps": held.get("p_eps", 0.0),
            "trajectory_bytes": (size := self.trajectory.stat().st_size),
            "trajectory_xxh3": self.frames.of(self.trajectory, size),
            "trajectory": self.trajectory.name,
        }
        if "force_eps" in held:
            state["force_eps"] = held["force_eps"]
        if known:
            state["known"] = dict(known)
        if energy is not None:
            state["energy"] = energy
        publish_text(self.path, json.dumps(sealed(cast(Document, state))))

    def read(self, atoms: Atoms) -> RestartState | None:
        """The state to go on from, if there is one.

        Raises:
            ConfigError: it is damaged, of other atoms or of another simulation; says what differs.
        """
        path = self._found()
        if path is None:
            return None
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            ours, given, whole = state["format"] == _FORMAT, state["plan"], is_whole(state)
        except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not a restart file ({error!r}); {_REMEDY}") from error
        if whole is False:
            raise ConfigError(f"{path} is damaged (its checksum does not fit); {_REMEDY}")
        if whole is None:
            warn_unsealed(path)
        if not ours or state["numbers"] != atoms.numbers.tolist():
            raise ConfigError(f"{path} is of another system; {_REMEDY}")
        if state.get("trajectory", self.trajectory.name) != self.trajectory.name:
            raise ConfigError(f"{path} is of the trajectory {state['trajectory']}; choose another output")
        differing = _differing(given, self.identity)
        old = "model" not in given and "model" in self.identity
        unknown = [key.split()[0] for key in self.identity if old and key not in given]
        if unknown and not self._began_with(atoms):
            differing.append(CONTENTS["start"])
        if differing:
            raise ConfigError(f"{path} is of another simulation ({'; '.join(differing)}); {_REMEDY}")
        if unknown:
            LOGGER.warning(
                f"{path} is of an older version and does not tell its {', '.join(dict.fromkeys(unknown))}: taken to be "
                "as they are given now"
            )
        return cast(RestartState, state)

    def _found(self) -> Path | None:
        """The file; 0.1.0 gave trajectories of one stem the same."""
        if self.path.exists():
            return self.path
        old = self.trajectory.with_name(f"{self.trajectory.stem}.restart.json")
        plain = self.trajectory.with_suffix(".xyz")
        if not old.exists() or not self.trajectory.exists() or plain.exists():
            return None
        try:
            return None if "trajectory" in json.loads(old.read_text(encoding="utf-8")) else old
        except (ValueError, TypeError):
            return None

    def _began_with(self, atoms: Atoms) -> bool:
        """Whether the trajectory's first frame is the start, to a file's precision; where there is none, it may be."""
        if not self.trajectory.exists() or not self.trajectory.stat().st_size:
            return True
        first = next(read_structures(self.trajectory, "extxyz"))
        same = first.numbers.tolist() == atoms.numbers.tolist() and (first.pbc == atoms.pbc).all()
        return bool(
            same
            and np.allclose(first.positions, atoms.positions, atol=1e-6)
            and np.allclose(first.cell.array, atoms.cell.array, atol=1e-6)
        )

    def require_frames(self, state: RestartState) -> None:
        """Refuse a trajectory whose frames are not those that the state follows.

        Raises:
            ConfigError: it has lost frames, or they have changed.
        """
        size = self.trajectory.stat().st_size if self.trajectory.exists() else 0
        if size < state["trajectory_bytes"]:
            raise ConfigError(
                f"{self.trajectory} is shorter than when its restart file was written; restore it, {_REMEDY}"
            )
        if state.get("trajectory_xxh3", known := self.frames.of(self.trajectory, state["trajectory_bytes"])) != known:
            raise ConfigError(
                f"frames of {self.trajectory} have changed since its restart file was written; restore it, {_REMEDY}"
            )

    def require_potential(self, state: RestartState, atoms: Atoms) -> None:
        """Refuse a calculator that gives the state another energy: most do not tell all that they are made of.

        Args:
            atoms: with the calculator; they stay as they are.

        Raises:
            ConfigError: it does.
        """
        if "energy" not in state:
            return
        there = atoms.copy()
        there.calc = atoms.calc
        _place(state, there)
        now = float(there.get_potential_energy(apply_constraint=False))
        if abs(now - state["energy"]) / len(atoms) > _SAME_ENERGY:
            raise ConfigError(
                f"{self.path} is of another simulation ({CONTENTS['model']}: {state['energy']:.6f} eV there, {now:.6f} "
                f"eV now); {_REMEDY}"
            )

    def restore(self, state: RestartState, atoms: Atoms, generator: np.random.Generator) -> None:
        """Put atoms, random numbers and trajectory back to where they were.

        Raises:
            ConfigError: see ``require_frames``.
        """
        self.require_frames(state)
        _place(state, atoms)
        atoms.set_momenta(state["momenta"], apply_constraint=False)
        generator.bit_generator.state = state["generator"]
        with self.trajectory.open("rb+") as stream:  # frames behind the restart point come again
            stream.truncate(state["trajectory_bytes"])


def _place(state: RestartState, atoms: Atoms) -> None:
    """Put atoms and cell where a state has them."""
    atoms.set_cell(state["cell"])
    atoms.positions[:] = state["positions"]


def _differing(given: Mapping[str, str | float], now: Mapping[str, str | float]) -> list[str]:
    """What is not as it was, in words."""
    found = []
    for key in now:
        if key not in given or given[key] == now[key]:  # what an older file does not tell cannot be compared
            continue
        content = CONTENTS.get(key.split()[0])
        if content is None:
            found.append(f"{key} {given[key]} there, {now[key]} now")
        else:
            _, _, part = key.partition(" ")
            found.append(f"{content}{': other ' + part if part else ''}")
    return found
