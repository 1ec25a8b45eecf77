"""What a model's file holds, in words: what ``mekrr-scale info`` shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from mekrr_scale.arrays import error_text
from mekrr_scale.kernels import SetKernel
from mekrr_scale.models.choices import Document
from mekrr_scale.models.embedding import Weights
from mekrr_scale.models.model import Model


def summary(model: Model) -> dict[str, str]:
    """Lines by what they are about."""
    from ase.data import chemical_symbols

    told = {k: v for k, v in model.validation.items() if k.endswith(("mae", "rmse"))}
    errors = [error_text(name, v) for name, v in told.items() if isinstance(v, float) and math.isfinite(v)]
    known = model.structure
    return {
        "species": " ".join(chemical_symbols[z] for z in model.species),
        "landmarks": f"{model.landmarks.n_sets} structures or atoms, {len(model.landmarks.species)} environments",
        "kernel": kernel_text(model.kernel),
        "features": f"{_named(model.backbone)}, {model.landmarks.features.shape[1]} numbers an atom"
        + ("" if model.compression is None else f" out of {model.compression.full}"),
        "weights": _place(model.weights, model.spec),
        "baseline": _baseline(model),
        "trained on": f"{model.provenance.get('structures', 'unknown')} structures",
        "stress": "learned, or the prior's" if model.knows_stress else "not learned",
        "cross-validated": ", ".join(errors) or "no",
        "uncertainty": "calibrated intervals and extrapolation grades" if model.posterior else "none",
        "brings along": "nothing" if known is None else f"{known.get_chemical_formula()}, of lowest energy per atom",
        "coefficients": str(model.provenance.get("coefficients_sha256", "unknown")),
        "written by": str(model.provenance.get("writer", "unknown")),
    }


def kernel_text(kernel: SetKernel) -> str:
    """What structures are compared by, such as ``Gaussian, length scale 4.39, sum, alpha 1``."""
    mixed = "mixing matrix over the elements" if kernel.mixing.matrix else f"alpha {kernel.mixing.alpha:g}"
    length = getattr(kernel.atom, "length_scale", getattr(kernel.atom, "length_scales", None))
    shown = "" if length is None else f", length scale {length:.3g}" if isinstance(length, float) else f", {length}"
    return f"{type(kernel.atom).__name__}{shown}, {kernel.reduce}, {mixed}"


def _named(backbone: Document) -> str:
    options = cast("list[list[str]]", backbone.get("options") or [])
    more = "".join(f", {key} {value}" for key, value in options)
    return f"{backbone.get('name')} {backbone.get('version')}, {backbone.get('layer')}{more}"


def _place(weights: Weights | None, spec: Mapping[str, Any]) -> str:
    """Where the weights of a network are."""
    if weights is not None:
        size = sum(tensor.numel() * tensor.element_size() for tensor in weights.tensors.values())
        return f"in the file, {size / 1e6:.1f} MB, licence: {weights.licence or 'not said'}"
    path = spec.get("checkpoint")
    if path:
        return f"in {path}{'' if Path(str(path)).is_file() else ', which is not there'}"
    return f"of the installed package {spec['name']}" if spec else "of a backbone of the user's own"


def _baseline(model: Model) -> str:
    kind = "energies of the elements, " + ("fitted" if model.baseline.fitted else "given")
    if not model.baseline.prior:
        return kind
    if not model.prior:
        return f"the network's own energies, and {kind}"
    where: Any = model.prior["where"]
    named = model.prior["kind"]
    if named == "backbone":
        return f"energies of {where['backbone']['name']} ({_place(model.prior_weights, where['backbone'])}), and {kind}"
    if named == "model":
        held = "in the file" if model.inner is not None else where["path"]
        return f"energies of another model ({held}), and {kind}"
    return f"energies that structures bring along, and {kind}"
