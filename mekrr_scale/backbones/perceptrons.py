"""Gated perceptrons, pushed forward: derivatives of CHGNet's messages along many directions at once.

A message ``silu(N(f(x))) * sigmoid(N'(g(x)))`` takes atoms, bonds and angles side by side; f and g are perceptrons of
one or two layers, N and N' layer norms. Its derivative by x is a product of matrices that all messages share and of
factors that all directions share, so that only the former are applied to each. The first matrix is applied to atoms,
bonds and angles before they are gathered: there are far fewer of them than of messages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_BLOCK = 1 << 18  # numbers in an array of messages that are treated together: they stay in the cache


@dataclass(frozen=True)
class Full:
    """Derivatives of some rows along directions."""

    values: Float[Tensor, "rows directions width"]

    def through(self, weight: Float[Tensor, "width out"]) -> Full:
        return Full(self.values @ weight)

    def at(self, rows: Int[Tensor, " chosen"]) -> Float[Tensor, "chosen directions width"]:
        return self.values.index_select(0, rows)


@dataclass(frozen=True)
class Along:
    """Derivatives of rows that follow from that of one number each, such as a length."""

    slopes: Float[Tensor, "rows width"]
    numbers: Float[Tensor, "rows directions"]

    def through(self, weight: Float[Tensor, "width out"]) -> Along:
        return Along(self.slopes @ weight, self.numbers)

    def at(self, rows: Int[Tensor, " chosen"]) -> Float[Tensor, "chosen directions width"]:
        return self.slopes.index_select(0, rows)[:, None] * self.numbers.index_select(0, rows)[:, :, None]


Moved = Full | Along


@dataclass(frozen=True)
class Gated:
    """A gated perceptron at the geometry that was given; core and gate lie side by side."""

    value: Float[Tensor, "rows out"]
    first: Float[Tensor, "width hidden"]
    bends: Float[Tensor, "rows hidden"] | None  # derivative of the activation between two layers
    second: tuple[Float[Tensor, "half out"], Float[Tensor, "half out"]] | None
    normal: tuple[Float[Tensor, "rows out"], Float[Tensor, "rows out"]] | None  # normalised core and gate
    factors: tuple[Float[Tensor, "rows out"], Float[Tensor, "rows out"]]  # from core and gate to the message

    def weighted(self, weight: Float[Tensor, "rows out"]) -> Gated:
        """Of messages that are multiplied by something."""
        core, gate = self.factors
        return Gated(
            self.value * weight, self.first, self.bends, self.second, self.normal, (core * weight, gate * weight)
        )

    def push(self, rows: slice, hidden: Float[Tensor, "chosen directions hidden"]) -> Tensor:
        """Derivatives of messages from those of what the first matrix gives, which are overwritten."""
        if self.bends is not None:
            hidden.mul_(self.bends[rows, None])
        parts = list(hidden.chunk(2, 2))
        if self.second is not None:
            parts = [part @ weight for part, weight in zip(parts, self.second, strict=True)]
        if self.normal is not None:
            for i, normal in enumerate(self.normal):
                unit = normal[rows]
                share = torch.bmm(parts[i], unit[:, :, None])
                parts[i] = torch.baddbmm(parts[i], share, unit[:, None], alpha=-1 / unit.shape[1])
        return (parts[0] * self.factors[0][rows, None]).addcmul_(parts[1], self.factors[1][rows, None])


def gated(module: Any, x: Float[Tensor, "rows width"]) -> Gated | None:
    """A gated perceptron of CHGNet at its inputs; None for one of another make."""
    layers = [_layers(part) for part in (module.mlp_core, module.mlp_gate)]
    norms = (module.bn1, module.bn2)
    alike = len(layers[0]) == len(layers[1]) in (1, 2)
    silu = isinstance(module.activation, nn.SiLU) and all(_is_silu(mlp) for mlp in (module.mlp_core, module.mlp_gate))
    if not (alike and silu and all(norm is None or isinstance(norm, nn.LayerNorm) for norm in norms)):
        return None
    first = torch.cat([part[0].weight for part in layers]).T
    before = x @ first + torch.cat([part[0].bias for part in layers])
    bends, halves = None, before.chunk(2, 1)
    if len(layers[0]) == 2:
        share = torch.sigmoid(before)
        bends = share * (1 + before * (1 - share))
        halves = tuple(part[1](half) for part, half in zip(layers, (before * share).chunk(2, 1), strict=True))
    core, core_norm, core_scale = _normalised(norms[0], halves[0])
    gate, gate_norm, gate_scale = _normalised(norms[1], halves[1])
    share, opened = torch.sigmoid(core), torch.sigmoid(gate)
    factors = (
        opened * share * (1 + core * (1 - share)) * core_scale,
        core * share * opened * (1 - opened) * gate_scale,
    )
    last = [part[-1].weight.T for part in layers]
    if norms[0] is not None:  # a norm takes the mean off
        last = [weight - weight.mean(1, keepdim=True) for weight in last]
    second = (last[0], last[1]) if len(layers[0]) == 2 else None
    normal = None if core_norm is None or gate_norm is None else (core_norm, gate_norm)
    return Gated(core * share * opened, torch.cat(last, 1) if second is None else first, bends, second, normal, factors)


def _layers(mlp: Any) -> list[nn.Linear]:
    return [layer for layer in mlp.layers if isinstance(layer, nn.Linear)]


def _is_silu(mlp: Any) -> bool:
    return all(isinstance(layer, nn.Linear | nn.Dropout | nn.SiLU) for layer in mlp.layers)


def _normalised(norm: nn.LayerNorm | None, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Values behind a layer norm; before its weights; and what derivatives are multiplied by."""
    if norm is None:
        return x, None, x.new_ones(1)
    width = torch.sqrt(x.var(1, keepdim=True, correction=0) + norm.eps)
    unit = (x - x.mean(1, keepdim=True)) / width
    return unit * norm.weight + norm.bias, unit, norm.weight / width


def push_each(
    messages: Gated,
    sources: Sequence[tuple[Moved, Int[Tensor, " rows"]]],
    more: Sequence[Along],
    count: int,
    take: Callable[[slice, Tensor], object],
) -> None:
    """Derivatives of all messages, a block after the other.

    Args:
        sources: what the perceptron takes side by side, and which row of it each message takes.
        more: what is added to the messages' derivatives.
        count: of directions.
        take: gets each block.
    """
    rows, start = len(messages.value), 0
    parts = []
    for moved, index in sources:
        width = (moved.values if isinstance(moved, Full) else moved.slopes).shape[-1]
        parts.append((moved.through(messages.first[start : start + width]), index))
        start += width
    step = max(1, _BLOCK // (count * messages.first.shape[1]))
    every = torch.arange(rows, device=messages.value.device)
    for begin in range(0, rows, step):
        block = slice(begin, begin + step)
        hidden = parts[0][0].at(parts[0][1][block])
        for moved, index in parts[1:]:
            hidden += moved.at(index[block])
        found = messages.push(block, hidden)
        for one in more:
            found += one.at(every[block])
        take(block, found)


def push_sums(
    messages: Gated,
    sources: Sequence[tuple[Moved, Int[Tensor, " rows"]]],
    more: Sequence[Along],
    count: int,
    index: Int[Tensor, " rows"],
    size: int,
) -> Float[Tensor, "sums directions out"]:
    """Derivatives of sums of messages: see ``push_each``."""
    total = messages.value.new_zeros(size, count, messages.value.shape[1])
    push_each(messages, sources, more, count, lambda block, part: total.index_add_(0, index[block], part))
    return total
