"""Small networks that are trained from scratch: students, and opponents in learning curves. No torch to name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mekrr_scale import backbones
from mekrr_scale.backbones import BackboneSpec, new_backbone


@dataclass(frozen=True)
class Network:
    """An architecture."""

    backbone: str
    sizes: Mapping[str, float] = field(default_factory=dict)  # where they differ from the defaults

    def new(self) -> backbones.Backbone:
        """One that has not learned."""
        return new_backbone(BackboneSpec(self.backbone), self.sizes)


NETWORKS = {
    "schnet-small": Network("schnet"),
    "schnet-tiny": Network("schnet", {"hidden_channels": 32, "num_filters": 32, "num_interactions": 2}),
    "dimenet++-small": Network("dimenet++"),
}
