"""exp of two libraries: as right as each other, chosen by processor or environment, and told to who has to know."""

import hashlib
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import (
    Gaussian,
    GaussianSum,
    Matern32,
    Matern52,
    SetKernel,
    SpeciesMixing,
    Transform,
)
from mekrr_scale.kernels import exponential as chosen
from mekrr_scale.kernels.exponentials import VARIABLE, exp_
from mekrr_scale.landmarks import Uniform
from tests import reference


def arguments(dtype):
    """Small and large ones, slightly positive ones, and what underflows."""
    small = -torch.logspace(-12, 1.5, 4001, dtype=torch.float64)
    return torch.cat([small, -small[:3000] / 1e4, torch.tensor([0.0, -80.0, -800.0, -torch.inf])]).to(dtype)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_errors_are_those_of_rounding(library, dtype, monkeypatch):
    """In ulp of 1, and relative to what the rounding of the argument alone makes."""
    monkeypatch.setenv(VARIABLE, library)
    t = arguments(dtype)
    expected = np.array([math.exp(value) for value in t.tolist()])
    given = t.clone()
    found = exp_(given)
    assert found.data_ptr() == given.data_ptr()
    error = np.abs(found.double().numpy() - expected) / torch.finfo(dtype).eps
    assert error.max() <= 2.0
    moderate = ((t > -30) & (t < 1)).numpy()
    assert (error[moderate] <= (2.0 + t.abs().double().numpy()[moderate]) * expected[moderate]).all()
    assert found[-1] == 0.0
    assert found[-4] == 1.0


def test_the_environment_chooses(monkeypatch):
    t = arguments(torch.float64)
    monkeypatch.setenv(VARIABLE, "numpy")
    assert chosen().startswith("numpy")
    by_numpy = exp_(t.clone())
    assert torch.equal(by_numpy, torch.from_numpy(np.exp(t.numpy())))
    monkeypatch.setenv(VARIABLE, "torch")
    assert chosen() == "torch"
    assert not torch.equal(exp_(t.clone()), by_numpy)
    monkeypatch.setenv(VARIABLE, "nunpy")
    with pytest.raises(ConfigError, match=r"MEKRR_SCALE_EXP is 'nunpy'.*mean 'numpy'"):
        exp_(t)


@pytest.mark.parametrize(
    "kernel",
    [Gaussian(2.0), GaussianSum((1.0, 4.0)), Matern32(2.0), Matern52(2.0)],
    ids=repr,
)
def test_rows_of_both(kernel, monkeypatch):
    batch, _ = reference.with_tangents(reference.random_batch(0), 1)
    at = SetKernel(kernel, SpeciesMixing(0.4), "sum", Transform.identity(4))
    landmarks = Uniform(6).select([batch], at)
    found = []
    for library in ("numpy", "torch"):
        monkeypatch.setenv(VARIABLE, library)
        found.append(
            (
                at.rows(batch, landmarks),
                at.derivative_rows(batch, landmarks, torch.float64),
            )
        )
    for by_numpy, by_torch in zip(*found, strict=True):
        torch.testing.assert_close(by_torch, by_numpy, rtol=1e-13, atol=1e-14)


SAID = """
import hashlib, os, torch
from mekrr_scale.kernels import exponential
from mekrr_scale.kernels.exponentials import exp_
t = -torch.linspace(0, 30, 2003, dtype=torch.float64)
print(exponential(), hashlib.sha256(exp_(t).numpy().tobytes()).hexdigest())
os.environ["MEKRR_SCALE_EXP"] = "numpy"
print(exponential())
"""


def test_the_processor_chooses(monkeypatch):
    """Without AVX-512 torch's, whose bits do not depend on it; numpy's may, and it is said."""
    found = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    wide = [name for name in found if name.startswith(("AVX512", "X86_V4"))]
    monkeypatch.delenv(VARIABLE, raising=False)
    narrow = {"ATEN_CPU_CAPABILITY": "avx2", "NPY_DISABLE_CPU_FEATURES": " ".join(wide)} if wide else {}
    run = subprocess.run(
        [sys.executable, "-c", SAID],
        env=os.environ | narrow,
        capture_output=True,
        text=True,
        check=True,
    )
    assert chosen() == ("numpy" if wide else "torch")
    monkeypatch.setenv(VARIABLE, "torch")
    t = -torch.linspace(0, 30, 2003, dtype=torch.float64)
    assert run.stdout.split() == [
        *("torch", hashlib.sha256(exp_(t).numpy().tobytes()).hexdigest()),
        *("numpy", "without", "AVX-512"),
    ]
