"""``export``: a model's file as one of metatomic's."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, Literal

import torch

from mekrr_scale.backbones import Backbone, Compressed
from mekrr_scale.engines.metatomic.expansion import Expansion
from mekrr_scale.engines.metatomic.intervals import Intervals, NoIntervals
from mekrr_scale.engines.metatomic.network import network_of
from mekrr_scale.errors import ConfigError, ModelError
from mekrr_scale.files import replacing
from mekrr_scale.models import Model, Potential
from mekrr_scale.outputs import EXPORTED, check_output

_METHOD = "https://arxiv.org/abs/2306.01589"
_PAPERS = {
    "sevennet": "https://doi.org/10.1021/acs.jctc.4c00190",
    "mace": "https://arxiv.org/abs/2206.07697",
    "chgnet": "https://doi.org/10.1038/s42256-023-00716-3",
}


def export(
    model: Model | Path | str,
    path: Path | str,
    dtype: Literal["float64", "float32"] = "float64",
    overwrite: bool = False,
    trust_code: bool = False,
) -> None:
    """Write a model as one file that metatomic's engines read, network and all.

    Energies are those of ``Potential`` and differentiable; positions and energies are float64.

    Args:
        dtype: precision of the network.
        overwrite: a file that is there and no exported model may be replaced.
        trust_code: see ``Potential``.

    Raises:
        ConfigError: metatomic is not installed, or the file must not be written.
        ModelError: a prior that is another potential, or a kernel of the user's own; see ``Model.load``.
        BackboneError: the model's backbone is none of sevennet, chgnet and mace.
    """
    try:
        from metatomic.torch import AtomisticModel, ModelCapabilities

        from mekrr_scale.engines.metatomic.interface import Interface
    except ImportError as error:
        raise ConfigError("metatomic is not installed: pip install 'mekrr-scale[metatomic]'") from error
    path = check_output(Path(path), EXPORTED, overwrite)
    model = model if isinstance(model, Model) else Model.load(model)
    if model.baseline.prior and model.prior:
        raise ModelError(
            "the model corrects another potential (its prior), which cannot be exported with it; fit one with baseline "
            "'composition', or with 'backbone', the network's own energies"
        )
    potential = Potential(model, dtype=dtype, trust_code=trust_code)
    backbone = potential.backbone.inner if isinstance(potential.backbone, Compressed) else potential.backbone
    network = network_of(backbone, potential.adds_own)
    expansion = Expansion(model)
    intervals = NoIntervals() if model.posterior is None else Intervals(model, model.posterior)
    whole = Interface(network, expansion, intervals, backbone.cutoff)
    capabilities = ModelCapabilities(
        outputs=_outputs(model),
        atomic_types=list(model.species),
        interaction_range=_range(model, backbone, potential.adds_own),
        length_unit="angstrom",
        supported_devices=["cuda", "cpu"] if torch.cuda.is_available() else ["cpu", "cuda"],
        dtype="float64",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that TorchScript is to go
        made = AtomisticModel(whole.eval(), _metadata(model, backbone, dtype), capabilities)
        with replacing(path) as temporary:
            made.save(temporary)


def _outputs(model: Model) -> dict[str, Any]:
    from metatomic.torch import ModelOutput

    found = {
        "energy": ModelOutput(unit="eV", sample_kind="atom"),
        "feature": ModelOutput(sample_kind="atom", description="the network's, which the kernel compares"),
    }
    if model.posterior is not None:
        found["energy_uncertainty"] = ModelOutput(
            unit="eV", sample_kind="atom", description="half-width of the calibrated interval that holds 68 % of errors"
        )
    return found


def _range(model: Model, backbone: Backbone, energies: bool) -> float:
    """How far an atom's energy depends on others: everywhere, where atoms weigh by how many of them there are."""
    if model.kernel.reduce == "mean" and model.kernel.mixing.alpha > 0:
        return math.inf
    return backbone.reach(energies)


def _metadata(model: Model, backbone: Backbone, dtype: str) -> Any:
    from metatomic.torch import ModelMetadata

    provenance = model.provenance
    return ModelMetadata(
        name=f"mekrr-scale model on {backbone.name} {backbone.version}",
        authors=[str(provenance.get("writer", "mekrr-scale"))],
        description=f"{model!r}\n  network in {dtype}; trained on {provenance.get('structures', 'unknown')} structures"
        f"; coefficients {provenance.get('coefficients_sha256', 'unknown')}",
        references={
            "implementation": [],
            "architecture": [paper for paper in [_METHOD, _PAPERS.get(backbone.name)] if paper],
            "model": [],
        },
    )
