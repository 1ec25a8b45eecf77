"""A model and all that it needs, in one file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from mekrr_scale.backbones import BackboneSpec, identity_of, load_backbone
from mekrr_scale.errors import ModelError
from mekrr_scale.files import file_hash
from mekrr_scale.models.embedding import Weights
from mekrr_scale.models.model import Model
from mekrr_scale.models.priors import PriorSpec


def self_contained(model: Model, licence: str = "") -> Model:
    """A model with the weights of its networks, and with the model that it corrects, where their files are needed.

    Args:
        licence: of the weights that are taken in, in words.

    Raises:
        BackboneError: a checkpoint is missing, or holds code and is not trusted.
        ModelError: a checkpoint, or a prior's file, is another one than the model was fitted with.
    """
    changed = model
    if model.weights is None and model.spec.get("checkpoint"):
        backbone = load_backbone(BackboneSpec.of(model.spec))
        model.require_backbone(identity_of(backbone), str(model.spec["checkpoint"]))
        spec = {key: value for key, value in model.spec.items() if key not in ("checkpoint", "sha256")}
        changed = replace(changed, weights=Weights.of(backbone, licence), spec=spec)
    return _with_prior(changed, licence) if model.baseline.prior and model.prior else changed


def _with_prior(model: Model, licence: str) -> Model:
    prior = PriorSpec.from_dict(model.prior)
    where: dict[str, Any] = dict(cast(Any, model.prior)["where"])
    if prior.kind == "model" and model.inner is None:
        path = Path(str(prior.path))
        if not path.is_file() or file_hash(path, "sha256") != prior.hash:
            raise ModelError(f"the model corrects the model {path}, which is not there or another file; put it back")
        inner = self_contained(Model.load(path), licence)
        return replace(model, inner=inner, prior={**model.prior, "where": {**where, "path": path.name}})
    if prior.kind == "backbone" and model.prior_weights is None and prior.backbone and prior.backbone.checkpoint:
        backbone = load_backbone(prior.backbone)
        if prior.hash and backbone.identity().weight_hash != prior.hash:
            raise ModelError(f"the prior's backbone {backbone.name} has other weights than when the features were made")
        named = {**where["backbone"], "checkpoint": None, "sha256": None}
        changed = {**model.prior, "where": {**where, "backbone": named}}
        return replace(model, prior_weights=Weights.of(backbone, licence), prior=changed)
    return model
