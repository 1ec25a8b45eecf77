"""Where torch computes."""

from __future__ import annotations

import torch

from mekrr_scale.errors import ConfigError


def usable_device(device: torch.device | str) -> str:
    """The name of a device, on which torch can compute here in double precision.

    Raises:
        ConfigError: it cannot.
    """
    try:
        found = torch.device(device)
        if found.type != "cuda":
            torch.zeros(1, dtype=torch.float64, device=found).tolist()
    except (RuntimeError, AssertionError, TypeError) as error:
        message = f"device {str(device)!r}: torch cannot compute on it here; write cpu, cuda or cuda:1"
        raise ConfigError(message) from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device {str(found)!r}: torch finds no CUDA GPU here; use cpu, or install torch with CUDA (README)"
        )
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {str(found)!r}: there are {torch.cuda.device_count()} GPUs here, counted from 0")
    return str(device)
