"""Which blocks of a network learn, and how fast.

Blocks have the names that ``mekrr-scale backbones --blocks NAME`` prints, in the order in which an
input passes through them: ``embedding``, the interactions, ``readout``. Rates that fall from the
readout towards the input are discriminative fine-tuning (Howard and Ruder, arXiv 1801.06146; for
potentials Zaverkin et al., arXiv 2212.03916); rates of zero are the frozen transfer of Radova et
al. (arXiv 2502.15582).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field

from mekrr_scale.backbones import Backbone
from mekrr_scale.errors import ConfigError, suggestion
from mekrr_scale.plans import Given, listed, plan, preset


@plan
class BlockPlan:
    """Rates of learning, block by block.

    Raises:
        ConfigError: a rate or factor outside its range.
    """

    train: Annotated[Given[tuple[str, ...], str | Sequence[str]], listed(str)] = preset(default=())
    """The only blocks that learn; empty for all."""

    freeze_up_to: str | None = None
    """This block and all before it do not learn."""

    rates: Mapping[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Of single blocks, instead of the common rate; 0 freezes."""

    decay: float = Field(default=1.0, gt=0, le=1)
    """Factor of the rate from each block to the one before it."""

    reset: Annotated[Given[tuple[str, ...], str | Sequence[str]], listed(str)] = preset(default=())
    """Blocks that start from new random weights."""

    def learning_rates(self, blocks: Sequence[str], base: float) -> dict[str, float]:
        """The learning rate of every block.

        Args:
            blocks: all of the network's, in order.
            base: rate of the last block, and of all without a rate of their own.

        Raises:
            ConfigError: an unknown block (the closest is named), or nothing left that learns.
        """
        found = {name: base * self.decay ** (len(blocks) - 1 - place) for place, name in enumerate(blocks)}
        for name, rate in self.rates.items():
            found |= dict.fromkeys(matching(name, blocks), rate)
        if self.train:
            kept = {block for name in self.train for block in matching(name, blocks)}
            found = {name: rate if name in kept else 0.0 for name, rate in found.items()}
        if self.freeze_up_to is not None:
            last = max(blocks.index(name) for name in matching(self.freeze_up_to, blocks))
            found |= dict.fromkeys(blocks[: last + 1], 0.0)
        if not any(found.values()):
            raise ConfigError(f"no block is left that learns; the blocks are {', '.join(blocks)}")
        return found


def matching(name: str, blocks: Sequence[str]) -> list[str]:
    """The blocks that a name stands for: one, or all of a kind (``interactions``).

    >>> matching("interactions", ["embedding", "interaction1", "interaction2", "readout"])
    ['interaction1', 'interaction2']

    Raises:
        ConfigError: none; the closest is named.
    """
    if name in blocks:
        return [name]
    alike = [block for block in blocks if re.fullmatch(rf"{re.escape(name.removesuffix('s'))}\d+", block)]
    if alike and name.endswith("s"):
        return alike
    raise ConfigError(f"the network has no block {name!r}. {suggestion(name, blocks)}")


def reset_blocks(backbone: Backbone, names: Sequence[str], seed: int) -> None:
    """Give blocks new random weights, in place.

    Raises:
        ConfigError: an unknown block.
    """
    if not names:
        return
    parameters = backbone.parameters()
    chosen = {block for name in names for block in matching(name, list(parameters))}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = dict(backbone.fresh().named_parameters())
    with torch.no_grad():
        for block in chosen:
            for name, weight in parameters[block].items():
                weight.copy_(fresh[name])
    backbone.spec = {}


def randomize(backbone: Backbone, seed: int = 0) -> Backbone:
    """Give all blocks new random weights, in place; returns the backbone."""
    reset_blocks(backbone, list(backbone.parameters()), seed)
    return backbone


def copy_species(backbone: Backbone, mapping: Mapping[int, int]) -> None:
    """Copy what a network knows of elements to others, in place.

    Args:
        mapping: from the atomic number of the source to that of the target.

    Raises:
        ConfigError: an element that the network has no weights for.
    """
    from ase.data import chemical_symbols

    for source, target in mapping.items():
        for z in (source, target):
            if z not in backbone.species:
                raise ConfigError(
                    f"species map {chemical_symbols[source]}:{chemical_symbols[target]}: backbone {backbone.name} has "
                    f"no weights for {chemical_symbols[z]}"
                )
        with torch.no_grad():
            for given, taken in zip(backbone.species_rows(source), backbone.species_rows(target), strict=True):
                taken.copy_(given)
        backbone.spec = {}
