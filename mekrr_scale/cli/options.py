"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import ase.io.formats
import torch
import typer

from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.errors import ConfigError

Device = Annotated[str, typer.Option(help="torch device of the backbone, e.g. cpu or cuda")]
EnergyKey = Annotated[str | None, typer.Option(help="info key of the energy; default: ASE's (force-consistent) energy")]
ForcesKey = Annotated[str | None, typer.Option(help="array key of the forces; default: ASE's, without constraints")]
StressKey = Annotated[str | None, typer.Option(help="info key of the stress; default: ASE's")]
Units = Annotated[
    str, typer.Option(help="units of the labels: energy[,length[,stress]], e.g. kcal/mol or Hartree,bohr")
]
Format = Annotated[str | None, typer.Option(help="ASE's name of the format, where the file name does not tell")]
Timeout = Annotated[float, typer.Option(help="seconds that ranks wait for each other")]
ModelFile = Annotated[Path, typer.Argument(help="model file")]


def device_of(text: str) -> str:
    """A device that torch can use here.

    Raises:
        ConfigError: unknown, or no CUDA GPU.
    """
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise ConfigError(f"--device {text!r}: write cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no CUDA GPU here; use cpu, or install torch with CUDA (README)")
    return text


def names(text: str | None) -> tuple[str, ...]:
    """What commas separate."""
    return tuple(piece.strip() for piece in (text or "").split(",") if piece.strip())


def candidates(option: str, text: str | None) -> tuple[str, ...] | None:
    """What commas separate; None where the option is not given.

    Raises:
        ConfigError: given, but empty.
    """
    if text is not None and not names(text):
        raise ConfigError(f"{option} is empty; give at least one value, or leave it out")
    return names(text) or None


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """The same, of numbers.

    Raises:
        ConfigError: given, but empty or something else.
    """
    found = candidates(option, text)
    try:
        return None if found is None else tuple(map(float, found))
    except ValueError:
        raise ConfigError(f"{option} {text!r}: write numbers separated by commas, e.g. 0.1,1e-4") from None


def backbone_spec(
    name: str,
    weights: str | None = None,
    checkpoint: Path | None = None,
    layer: str | None = None,
    max_neighbors: int | None = None,
) -> BackboneSpec:
    """A backbone as options name it."""
    return BackboneSpec(name, layer, weights, None if checkpoint is None else str(checkpoint), max_neighbors)


def named_numbers(option: str, text: str | None) -> dict[str, float]:
    """Pairs such as ``embedding=0,readout=3e-4``.

    Raises:
        ConfigError: not such pairs.
    """
    found = {}
    for piece in names(text):
        name, _, value = piece.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise ConfigError(f"{option} {piece!r}: write name=number, e.g. readout=3e-4") from None
    return found


def check_folder(path: Path) -> None:
    """Refuse a file to write before work is wasted.

    Raises:
        ConfigError: its folder does not exist.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"the folder {path.parent} does not exist; create it first")


def check_format(path: Path) -> None:
    """Refuse a file that ASE cannot write before work is wasted.

    Raises:
        ConfigError: its name tells no format, or one that ASE only reads.
    """
    try:
        known = ase.io.formats.get_ioformat(ase.io.formats.filetype(path, read=False)).can_write
    except ase.io.formats.UnknownFileTypeError:
        known = False
    if not known:
        raise ConfigError(f"ASE writes no format that {path.name!r} stands for; name it .xyz, .cif, .vasp, ...")
