"""Small networks of published architectures, with random weights."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import torch

from mekrr_scale.backbones import load_backbone
from mekrr_scale.backbones.weights import save


@cache
def _wheel_config():
    return load_backbone("sevennet", version="7net-0").config()["model"]


def small_sevennet(path, parity=False):
    """A SevenNet of two layers with channels of l > 0, four of each degree (and parity), and a last one without."""
    from sevenn.model_build import build_E3_equivariant_model

    sizes = {
        "channel": 4, "num_convolution_layer": 3, "lmax": 2, "is_parity": parity, "irreps_manual": False,
        "conv_denominator": 35.0, "shift": 0.0, "scale": 1.0,
    }  # fmt: skip
    config = {**_wheel_config(), **sizes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_E3_equivariant_model(dict(config))
    save(path, "sevennet", network, {"model": config, "modality": None})
    return str(path)


def mace_model(path, name="ScaleShiftMACE", hidden="8x0e+8x1o", **changes):
    """A MACE of two interactions and eight channels with random weights; returns the network."""
    from mekrr_scale.backbones.mace import require_mace

    require_mace()
    from e3nn import o3
    from mace import modules

    torch.manual_seed(0)
    sizes = {
        "r_max": 4.0, "num_bessel": 8, "num_polynomial_cutoff": 5, "max_ell": 2, "num_interactions": 2,
        "interaction_cls": modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        "interaction_cls_first": modules.interaction_classes["RealAgnosticInteractionBlock"],
        "num_elements": 4, "MLP_irreps": o3.Irreps("8x0e"),
        "atomic_energies": np.array([-1.0, -2.0, -3.0, -4.0]), "avg_num_neighbors": 8.0,
        "atomic_numbers": [1, 6, 8, 14], "correlation": 2, "gate": torch.nn.functional.silu,
    }  # fmt: skip
    if name == "ScaleShiftMACE":
        sizes |= {"atomic_inter_scale": 1.3, "atomic_inter_shift": 0.2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = getattr(modules, name)(**{**sizes, **changes, "hidden_irreps": o3.Irreps(hidden)})
        torch.save(network, path)
    return network
