"""What kernels refuse, and that the conformance suite finds what is wrong with one."""

from dataclasses import dataclass

import pytest
import torch

from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import Gaussian, SpeciesMixing, atom_kernel, check_kernel


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: atom_kernel("gaussian", length=1.0), "gaussian kernel: .*'length"),
        (lambda: atom_kernel("gausian"), "there is no kernel 'gausian'. Do you mean 'gaussian'"),
        (lambda: SpeciesMixing(1.5), r"alpha is 1.5; it mixes between 0 \(all species alike\) and 1 \(apart\)"),
        (lambda: SpeciesMixing(float("nan")), "alpha is nan; it mixes"),
        (lambda: SpeciesMixing(0.0, (1,), ((1.0,), (1.0,))), r"must be 1 x 1 for species \[1\]"),
        (lambda: SpeciesMixing(0.0, (1, 6), ((1.0, 0.0),)), r"must be 2 x 2 for species \[1, 6\]"),
        (lambda: SpeciesMixing(0.0, (1, 6), ((1.0, 0.0), (0.0,))), "must be 2 x 2"),
    ],
)  # fmt: skip
def test_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def broken(name, change):
    """A Gaussian, one of whose methods gives something else."""
    real = getattr(Gaussian, name)
    return dataclass(frozen=True)(type("Broken", (Gaussian,), {name: lambda self, *a: change(real(self, *a), *a)}))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("slope", lambda found, t: 1.001 * found, "slope against finite differences"),
        ("curvature", lambda found, t: found + 1e-3, "curvature against finite differences"),
        ("curvature", lambda found, t: torch.where(t == 0, torch.inf, found), "'curvature at t = 0' failed: it is inf"),
        ("left_pullback", lambda found, *_: 1.01 * found, "gradient against slopes"),
    ],
)
def test_the_conformance_suite_finds_what_is_wrong(name, change, message):
    check_kernel(Gaussian(1.3))
    with pytest.raises(ConfigError, match=message):
        check_kernel(broken(name, change)(1.3))
