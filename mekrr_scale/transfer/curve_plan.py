"""What a learning curve is to show: ways to learn from few structures, and what all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field, InstanceOf

from mekrr_scale.backbones import BackboneSpec, new_backbone
from mekrr_scale.errors import ConfigError, suggestion
from mekrr_scale.pipeline import FitPlan, Validation
from mekrr_scale.plans import Given, Numbers, listed, plan, preset
from mekrr_scale.transfer.blocks import BlockPlan
from mekrr_scale.transfer.networks import NETWORKS
from mekrr_scale.transfer.plan import TrainPlan

_DECAY = 0.3  # of discriminative fine-tuning, from block to block


@dataclass(frozen=True)
class Variant:
    """A way to learn from few structures.

    ``scratch`` (the same architecture), ``scratch:schnet-small`` (a small network), ``finetune``,
    ``frozen:BLOCK`` (up to that block; every level without one), ``discriminative`` or
    ``discriminative:0.5`` (rates that fall by the factor from block to block), ``kernel``,
    ``kernel-finetuned`` or ``kernel-finetuned:BLOCK`` (a kernel on the features of a fine-tuned
    backbone, frozen up to that block).

    Raises:
        ConfigError: an unknown variant (the closest is named), or an option that it does not take.
    """

    kind: str
    option: str = ""

    def __post_init__(self) -> None:
        kinds = ("scratch", "finetune", "frozen", "discriminative", "kernel", "kernel-finetuned")
        if self.kind not in kinds:
            raise ConfigError(f"no variant {str(self)!r}. {suggestion(self.kind, kinds)}")
        if self.kind == "scratch" and self.option and self.option not in NETWORKS:
            raise ConfigError(f"variant {str(self)!r}: {suggestion(self.option, NETWORKS)}")
        if self.kind in ("finetune", "kernel") and self.option:
            raise ConfigError(f"variant {str(self)!r}: {self.kind} takes no option")
        self.block_plan()

    @classmethod
    def parse(cls, text: str) -> Variant:
        """From what a user types: a kind, and its option behind a colon."""
        kind, _, option = text.partition(":")
        return cls(kind, option)

    def __str__(self) -> str:
        return f"{self.kind}:{self.option}" if self.option else self.kind

    @property
    def trains(self) -> bool:
        """Whether a network is trained, so that there is a learning rate to choose."""
        return self.kind != "kernel"

    def block_plan(self) -> BlockPlan:
        """Which blocks learn, and how fast."""
        if self.kind == "discriminative":
            try:
                return BlockPlan(decay=float(self.option or _DECAY))
            except ValueError:
                advice = f"give a factor between 0 and 1, e.g. discriminative:{_DECAY}"
                raise ConfigError(f"variant {str(self)!r}: {advice}") from None
        frozen = self.option if self.kind in ("frozen", "kernel-finetuned") else ""
        return BlockPlan(freeze_up_to=frozen or None)


def _variant(value: Any) -> Any:
    return Variant.parse(value) if isinstance(value, str) else value


@plan
class CurvePlan:
    """What to run.

    Raises:
        ConfigError: a value outside its range, or of no such kind.
    """

    sizes: Annotated[Given[tuple[int, ...], Numbers], listed(int)] = preset()
    """Numbers of training structures."""

    variants: Annotated[Given[tuple[InstanceOf[Variant], ...], Sequence[Variant | str]], listed(_variant)] = preset()
    """Ways to learn; also their texts (``"frozen:conv2"``)."""

    backbone: InstanceOf[BackboneSpec] = Field(default_factory=BackboneSpec)
    """The pretrained network."""

    repeats: int = Field(default=3, ge=1)
    """Random subsets of each size."""

    rates: Annotated[Given[tuple[float, ...], Numbers], listed(float)] = preset(default=(1e-4, 3e-4, 1e-3))
    """Learning rates of which the validation set chooses, for every variant and size."""

    train: TrainPlan = Field(default_factory=lambda: TrainPlan(steps=600))
    """Budget of the networks; its rate and blocks are those of the variants."""

    kernel: FitPlan = Field(default_factory=lambda: FitPlan(validation=Validation(uncertainty=False)))
    """How kernels are fitted."""

    derivatives: int = Field(default=8, ge=1)
    """Directions of each structure, for kernels."""

    seed: int = Field(default=0, ge=0)
    """Of subsets, orders and new weights."""

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1 or not self.variants or not self.rates:
            raise ConfigError("a learning curve needs sizes, variants and learning rates, all positive")
        for rate in self.rates:
            replace(self.train, learning_rate=rate)


def expanded(variants: Sequence[Variant], backbone: BackboneSpec) -> tuple[Variant, ...]:
    """``frozen`` without a block stands for all levels: up to every block but the last."""
    found: list[Variant] = []
    for variant in variants:
        if variant.kind == "frozen" and not variant.option:
            found += [Variant("frozen", block) for block in list(new_backbone(backbone).blocks())[:-1]]
        else:
            found.append(variant)
    return tuple(found)
