"""What stands in a model's file beside arrays: plain values, by their names."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from mekrr_scale.kernels import Reduce
from mekrr_scale.models.choices import JSON, Document
from mekrr_scale.models.posterior import PosteriorHeader


class Mixing(TypedDict):
    """How elements are mixed."""

    alpha: float
    species: list[int]
    matrix: list[list[float]]


class KernelHeader(TypedDict):
    """What structures are compared by."""

    atom: dict[str, JSON]
    mixing: Mixing
    reduce: Reduce
    transform_species: list[int]


class BaselineHeader(TypedDict):
    """What is taken off energies."""

    species: list[int]
    prior: bool
    fitted: bool


class Header(TypedDict):
    """The JSON document in a model's file."""

    format: str
    schema: str
    kernel: KernelHeader
    landmark_sets: int
    baseline: BaselineHeader
    backbone: dict[str, JSON]
    spec: dict[str, JSON]
    validation: dict[str, JSON]
    provenance: dict[str, JSON]
    posterior: NotRequired[PosteriorHeader | None]  # since 1.1
    prior: NotRequired[dict[str, JSON]]  # since 1.2
    compression: NotRequired[list[int] | None]  # species that have axes, since 2.0
    sample: NotRequired[dict[str, JSON]]  # since 1.4
    weights: NotRequired[dict[str, Document]]  # of networks by their part in the model, since 1.5
    electrons: NotRequired[dict[str, JSON]]  # charge and spin of the training structures, since 1.6
    inner: NotRequired[Header | None]  # of the model that this one corrects, since 1.5
    checksum: str
