"""exp of tiles of kernel elements on CPUs, of two libraries; which of them is part of a job's identity.

On a processor with AVX-512 numpy's is as fast as torch's, and its bits are those of version 0.1.0; without, its float64
takes five times as long, and torch's exp2 less than a third of that: docs/benchmarks.md has the figures. The two differ
in last bits, so that ranks of one job must use the same: they compare ``exponential`` before they work, and states of
fits hold it.
"""

from __future__ import annotations

import math
import os
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from mekrr_scale.errors import ConfigError, suggestion

VARIABLE = "MEKRR_SCALE_EXP"  # in the environment: numpy or torch, whatever the processor is
_CHOICES = ("numpy", "torch")
_LOG2E = 1.0 / math.log(2.0)


def exponential() -> str:
    """Whose exp is used on this machine, as far as bits depend on it.

    Raises:
        ConfigError: the environment asks for one that there is not.
    """
    library = _library()
    return "numpy without AVX-512" if library == "numpy" and not _wide() else library


def exp_(t: Tensor) -> Tensor:
    """exp in place.

    Torch's is 2^(t log2 e), by SLEEF: to 0.5 ulp of 1 for t <= 0. The product's rounding makes a relative error of
    |t|/2 ulp, which is what the rounding of t itself makes. Its bits are the same with AVX2 and with AVX-512.
    """
    if t.device.type != "cpu":
        return t.exp_()
    if _library() == "torch":
        return t.mul_(_LOG2E).exp2_()
    np.exp(t.numpy(), out=t.numpy())
    return t


def _library() -> str:
    asked = os.environ.get(VARIABLE, "")
    if not asked:
        return "numpy" if _wide() else "torch"
    if asked not in _CHOICES:
        raise ConfigError(
            f"{VARIABLE} is {asked!r}; it is numpy or torch, or unset for what is faster on this processor. "
            f"{suggestion(asked, _CHOICES)}"
        )
    return asked


@lru_cache(maxsize=1)
def _wide() -> bool:
    """Whether numpy uses AVX-512 here; numpy 2.4 calls it X86_V4, and a variable of its own may turn it off."""
    config: Any = dict(np.show_config(mode="dicts") or {})
    found = config.get("SIMD Extensions", {}).get("found", [])
    return any(name in ("AVX512_SKX", "X86_V4") for name in found)
