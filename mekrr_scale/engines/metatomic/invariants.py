"""Invariants of equivariant channels as TorchScript: ``backbones.Invariants``."""

from typing import no_type_check

import torch
from torch import Tensor, nn

from mekrr_scale.backbones import Invariants


@no_type_check
class Taken(nn.Module):
    """What is taken of a layer's components."""

    degrees: list[int]
    places: list[list[tuple[int, int]]]
    counts: list[int]  # of channels, in each degree that has products
    signs: Tensor  # (channels of all degrees, mixed)

    def __init__(self, of: Invariants) -> None:
        super().__init__()
        self.scalars = of.scalars
        self.degrees = [one.degree for one in of.channels]
        self.places = [list(one.places) for one in of.channels]
        self.mixed = len(of.channels) > 0 and of.channels[0].signs is not None
        signs = [one.signs for one in of.channels if one.signs is not None]
        self.counts = [len(each) for each in signs]
        self.register_buffer("signs", torch.cat(signs) if signs else torch.zeros(0, 0))

    def forward(self, x: Tensor) -> Tensor:
        found = [x[:, : self.scalars]]
        products: list[Tensor] = []
        first = 0
        for i, degree in enumerate(self.degrees):
            runs: list[Tensor] = []
            for start, stop in self.places[i]:
                runs.append(x[:, start:stop].reshape(x.shape[0], (stop - start) // (2 * degree + 1), 2 * degree + 1))
            vectors = torch.cat(runs, 1)
            found.append((vectors * vectors).sum(2))
            if self.mixed:
                signs = self.signs[first : first + self.counts[i]].to(x.dtype)
                first += self.counts[i]
                mixed = vectors.transpose(1, 2) @ signs
                half = mixed.shape[2] // 2
                products.append((mixed[:, :, :half] * mixed[:, :, half:]).sum(1) / self.counts[i])
        return torch.cat(found + products, 1)


@no_type_check
class NotTaken(nn.Module):
    """Of a layer that gives no features."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :0]
