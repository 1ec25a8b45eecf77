"""Small networks of published architectures, with random weights."""

from __future__ import annotations

from functools import cache

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
