"""What a model corrects, made ready from what its file says of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from mekrr_scale.backbones import BackboneEnergies, BackboneSpec, load_backbone
from mekrr_scale.errors import ConfigError, ModelError, suggestion
from mekrr_scale.files import file_hash
from mekrr_scale.models.model import Model
from mekrr_scale.models.priors import PriorSpec
from mekrr_scale.structures import Entering, Entry, LabelKeys, Labelled, Predictor


def prior_from(
    spec: PriorSpec,
    potential_of: Callable[[Model], Predictor],
    dtype: torch.dtype | str,
    device: str,
    trust_code: bool,
    held_by: Model | None,
    max_memory: int | None,
) -> Predictor:
    """What gives the energies of a prior: see ``load_prior``.

    Args:
        potential_of: what makes a potential of a prior that is a model, which may have a prior itself.
    """
    inner: Predictor
    if spec.kind == "labels":
        return Labelled(spec.keys or LabelKeys())
    if spec.kind == "backbone":
        held = None if held_by is None or held_by.prior_weights is None else held_by.prior_weights.file
        backbone = load_backbone(spec.backbone or BackboneSpec(), trust_code, held).to(device, precision_of(dtype))
        if spec.hash and backbone.identity().weight_hash != spec.hash:
            raise ModelError(f"the prior's backbone {backbone.name} has other weights than when the features were made")
        inner = BackboneEnergies(backbone, max_memory)
    elif held_by is not None and held_by.inner is not None:
        inner = potential_of(held_by.inner)
    else:
        path = Path(str(spec.path))
        if not path.is_file():
            raise ModelError(f"the model corrects the model {path}, which is not there; put it back, or refit")
        if file_hash(path, "sha256") != spec.hash:
            raise ModelError(f"the prior {path} is another file than when the features were made; extract again")
        inner = potential_of(Model.load(path))
    return inner if spec.entry == Entry() else Entering(inner, spec.entry)


def precision_of(dtype: torch.dtype | str) -> torch.dtype:
    """The precision of weights, given as torch's or by its name."""
    if isinstance(dtype, torch.dtype):
        return dtype
    names = {"float32": torch.float32, "float64": torch.float64}
    if dtype not in names:
        raise ConfigError(f"dtype {dtype!r}: there is no such precision. {suggestion(dtype, names)}")
    return names[dtype]
