"""Options that several commands take, and what becomes of their values. No torch: help and completion read them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mekrr_scale.backbones import BackboneSpec, InvariantKind, available_backbones
from mekrr_scale.errors import ConfigError

if TYPE_CHECKING:
    from mekrr_scale.models import PriorSpec
    from mekrr_scale.structures import LabelKeys

EXIT_CODES = (
    "Exit codes: 0 done, 1 refused by the system (`check`: a test failed), 2 options, 3 structures, 4 store, "
    "5 backbone, 6 model, 7 solver, 8 simulation stopped, 9 another rank failed, 70 unexpected (a report is written), "
    "75 stopped by a signal (requeue: the same command goes on), 130 interrupted."
)


def commands(help: str | None = None) -> typer.Typer:
    """A place for commands to stand in."""
    return typer.Typer(help=help, no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")


def one_of(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """For a shell that completes a name, or the last of several between commas."""

    def complete(incomplete: str) -> list[str]:
        before, comma, begun = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in names() if name.startswith(begun)]

    return complete


def backbone_names() -> list[str]:
    """All there are, whether they can be used here or not."""
    return [name for name, _, _ in available_backbones()]


def _devices() -> list[str]:
    return ["cpu", "cuda", "cuda:0", "cuda:1"]


BACKBONES = one_of(backbone_names)

Device = Annotated[
    str, typer.Option(help="torch device of the backbone, e.g. cpu or cuda", autocompletion=one_of(_devices))
]
Compile = Annotated[bool, typer.Option("--compile", help="compile the network; pays in long runs")]
Workers = Annotated[
    int | None, typer.Option(help="processes side by side on a CPU; default: one for each core that may be used")
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        help="what networks may take for a structure, e.g. 4GB: larger ones go in chunks; default: half of what is free"
    ),
]
D3 = Annotated[
    str | None,
    typer.Option(help="add D3 dispersion of a functional to a model whose labels have none, e.g. pbe; or pbe:d3zero"),
]
IgnoreCharge = Annotated[
    bool, typer.Option("--ignore-charge", help="take frames of several charges or spins, which features do not know")
]
EnergyKey = Annotated[str | None, typer.Option(help="info key of the energy; default: ASE's (force-consistent) energy")]
ForcesKey = Annotated[str | None, typer.Option(help="array key of the forces; default: ASE's, without constraints")]
StressKey = Annotated[str | None, typer.Option(help="info key of the stress; default: ASE's")]
Units = Annotated[
    str, typer.Option(help="units of the labels: energy[,length[,stress]], e.g. kcal/mol or Hartree,bohr")
]
Format = Annotated[
    str | None,
    typer.Option(help="name of the format, where the file's does not tell: ASE's, deepmd, mlab or n2p2:Hartree,bohr"),
]
Timeout = Annotated[float, typer.Option(help="seconds that ranks wait for each other")]
CHOICE = "; some of a file's frames: a.xyz@12, a.xyz@-1, a.xyz@::10"
ModelFile = Annotated[Path, typer.Argument(help="model file")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace files that mekrr-scale did not write, too")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="write the figures as JSON")]
DEFAULT_BACKBONE = BackboneSpec.name
BackboneName = Annotated[
    str,
    typer.Option(
        "--backbone", help="see `mekrr-scale backbones`; also NAME:LAYER:INVARIANTS", autocompletion=BACKBONES
    ),
]
Layer = Annotated[
    str | None, typer.Option(help="after which block features are taken; several (not schnet's): gate1+gate2")
]
Invariants = Annotated[
    InvariantKind | None,
    typer.Option(help="features of channels of l > 0 (sevennet, mace): none (scalars), squared norms, or products too"),
]

Compress = Annotated[
    str | None,
    typer.Option(help="features as that many coordinates along principal axes, e.g. 128; or like those of a store"),
]
Residual = Annotated[
    float | None,
    typer.Option(help="as many coordinates as lose no more of the features' variance and the tangents' square"),
]
Basis = Annotated[
    Literal["species", "common"],
    typer.Option(help="axes of each species (for kernels of alpha 1), or common ones (for all)"),
]


def check_device(text: str) -> None:
    """Refuse what is no device, be it of another machine.

    Raises:
        ConfigError: it is none.
    """
    if re.fullmatch(r"(cpu|cuda)(:\d{1,3})?", text, re.ASCII) is None:
        raise ConfigError(f"--device {text!r}: write cpu, cuda or cuda:1")


def device_of(text: str) -> str:
    """A device that the package and torch can use here.

    Raises:
        ConfigError: unknown, or no such CUDA GPU.
    """
    check_device(text)
    from mekrr_scale.arrays import usable_device  # and torch

    return usable_device(text)


def label_keys(energy: str | None, forces: str | None, stress: str | None, units: str) -> LabelKeys:
    """Where labels stand, and in which units."""
    from mekrr_scale.structures import LabelKeys

    return LabelKeys(energy, forces, stress, **LabelKeys.parse_units(units))


def prior_spec(text: str, species_map: str | None, length_scale: float, keys: LabelKeys | None = None) -> PriorSpec:
    """A model, a backbone or labels, and how structures enter it."""
    from mekrr_scale.models import PriorSpec
    from mekrr_scale.structures import Entry, parse_species_map

    return PriorSpec.parse(text, Entry(length_scale, parse_species_map(species_map)), keys)


def same_named(plan: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options that go by the name of a plan's field."""
    return {field.name: given[field.name] for field in fields(plan) if field.name in given}


def backbone_spec(
    name: str,
    weights: str | None = None,
    checkpoint: Path | None = None,
    layer: str | None = None,
    max_neighbors: int | None = None,
    invariants: InvariantKind | None = None,
) -> BackboneSpec:
    """A backbone as options name it.

    Raises:
        ConfigError: behind the name stands another layer, or other invariants, than in their options.
        BackboneError: no such invariants.
    """
    named = BackboneSpec.parse(name)
    for option, short, given in (("layer", named.layer, layer), ("invariants", named.invariants, invariants)):
        if None not in (short, given) and short != given:
            raise ConfigError(f"--backbone {name} and --{option} {given}: give the {option} once")
    return replace(
        named,
        layer=layer or named.layer,
        version=weights,
        checkpoint=None if checkpoint is None else str(checkpoint),
        max_neighbors=max_neighbors,
        invariants=invariants or named.invariants,
    )


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
        return None if found is None else tuple(map(finite, found))
    except ValueError:
        raise ConfigError(f"{option} {text!r}: write numbers separated by commas, e.g. 0.1,1e-4") from None


def finite(text: str) -> float:
    """A number.

    Raises:
        ValueError: none, or one without bounds.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


def named_numbers(option: str, text: str | None) -> dict[str, float]:
    """Pairs such as ``embedding=0,readout=3e-4``.

    Raises:
        ConfigError: not such pairs.
    """
    found = {}
    for piece in names(text):
        name, _, value = piece.partition("=")
        try:
            found[name.strip()] = finite(value)
        except ValueError:
            raise ConfigError(f"{option} {piece!r}: write name=number, e.g. readout=3e-4") from None
    return found
