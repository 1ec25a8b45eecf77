"""What is compared: a point is a method with its options, on the first frames of a set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.records import key
from benchmarks.sets import SETS, DataSet, key_of
from benchmarks.study.settings import WEIGHTS, Features, Setting
from mekrr_scale import __version__

NETWORK = "7net-l3i5"
LAYER = "gate1+gate2"
FROZEN = ("interaction1", "interaction2", "interaction3")  # of five: the last block that keeps its weights
RATES = (1e-3, 3e-4)
STEPS = (40, 160, 560)
_SMALL = 30  # atoms, up to which all directions are taken


@dataclass(frozen=True)
class Kernel:
    """A fit on the network's features; baseline, length scale, weights and ridge are chosen by cross-validation."""

    invariants: str = "norms"
    directions: int | str = 16
    count: int = 2000

    def setting(self, network: str) -> Setting:
        features = Features("sevennet", network, LAYER, self.invariants, directions=self.directions)
        baselines = "backbone,composition"  # tuning begins at the network's own energies too
        return Setting(features, length="4x,8x,16x", baseline=baselines, count=self.count, weight=WEIGHTS)

    @property
    def label(self) -> str:
        return f"{self.invariants}, {self.directions} directions, M = {self.count}"


@dataclass(frozen=True)
class Tuned:
    """All weights of the network go on learning, or those behind a frozen block."""

    steps: int = 160
    rate: float = 1e-3
    frozen: str | None = None
    batch: int = 4

    @property
    def label(self) -> str:
        return f"{self.steps} steps, lr {self.rate:g}, {f'frozen up to {self.frozen}' if self.frozen else 'all learns'}"


@dataclass(frozen=True)
class OnTuned:
    """The kernel on the features of a network that was tuned on the same frames."""

    tuned: Tuned = Tuned()
    kernel: Kernel = Kernel()

    @property
    def label(self) -> str:
        return f"{self.kernel.label} behind {self.tuned.label}"


@dataclass(frozen=True)
class Franken:
    """Random features of franken; its ridge and force weight are chosen on the frames that tuning validates on."""

    features: int = 4096
    length: float = 16.0

    @property
    def label(self) -> str:
        return f"{self.features} features, l {self.length:g}"


Method = Kernel | Tuned | OnTuned | Franken
METHODS: dict[str, type[Method]] = {"kernel": Kernel, "finetune": Tuned, "on tuned": OnTuned, "franken": Franken}


@dataclass(frozen=True)
class Point:
    """One line of the comparison."""

    set: str
    frames: int
    method: Method
    network: str = NETWORK

    @property
    def kind(self) -> str:
        return next(name for name, made in METHODS.items() if made is type(self.method))

    @property
    def data(self) -> DataSet:
        return SETS[self.set]

    @property
    def key(self) -> str:
        """All that it depends on but the package's code between two releases."""
        setting = self.method.setting(self.network).identity() if isinstance(self.method, Kernel) else {}
        return key({"version": __version__, "data": key_of(self.data), "setting": setting, **self.to_dict()})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the process that runs it."""
        return {
            "set": self.set, "frames": self.frames, "kind": self.kind, "network": self.network,
            "options": asdict(self.method),
        }  # fmt: skip

    @classmethod
    def of(cls, document: dict[str, Any]) -> Point:
        made, options = METHODS[document["kind"]], dict(document["options"])
        if made is OnTuned:
            options = {"tuned": Tuned(**options["tuned"]), "kernel": Kernel(**options["kernel"])}
        return cls(document["set"], document["frames"], made(**options), document["network"])


def kernels(set_: str, frames: int, atoms: int) -> list[Kernel]:
    """Few directions and many; all of them where the frames and their atoms are few."""
    many: int | str = "all" if atoms <= _SMALL and frames <= 50 else 48 if frames <= 25 else 24
    return [
        Kernel("norms", 6, 1000),
        *(Kernel(kind, many, 2000) for kind in ("scalars", "norms", "products")),
        Kernel("products", many, 4000),
    ]


def frankens() -> list[Franken]:
    return [Franken(1024, 16.0), *(Franken(4096, length) for length in (8.0, 16.0, 32.0))]


def first_tuned(steps: Sequence[int], rates: Sequence[float]) -> list[Tuned]:
    """Everything learns: both rates at the middle number of steps."""
    return [Tuned(steps[len(steps) // 2], rate) for rate in rates]


def further_tuned(steps: Sequence[int], best: Tuned) -> list[Tuned]:
    """The better rate at the other numbers of steps, and with blocks frozen."""
    others = [replace(best, steps=count) for count in steps if count != best.steps]
    return [*others, *(replace(best, frozen=block) for block in FROZEN)]


def last_tuned(steps: Sequence[int], best_frozen: Tuned) -> list[Tuned]:
    """The best frozen level for as long as everything learned at most."""
    return [replace(best_frozen, steps=max(steps))]
