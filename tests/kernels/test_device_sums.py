"""Sums as they are made on a device."""

import importlib
import inspect
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch


@pytest.mark.parametrize("columns", [1, 40])
def test_sums_as_on_a_device_equal_those_on_cpus(monkeypatch, columns):
    """The GPU's way of summing, run here on the CPU: ragged owners, some without rows, many tiles."""
    from mekrr_scale.kernels import sums

    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(83, columns, generator=generator, dtype=torch.float64)
    owner = torch.randint(0, 23, (83,), generator=generator).sort().values
    for elements in (1, 200, 10**6):
        monkeypatch.setattr(sums, "DEVICE_ELEMENTS", elements)
        found = sums.segment_sums_on_device(owner, 25, columns, lambda a, b, c, d: matrix[a:b, c:d], "cpu")
        expected = torch.zeros(25, columns, dtype=torch.float64).index_add_(0, owner, matrix)
        torch.testing.assert_close(found, expected)
        squares = sums.segment_sums_on_device(
            owner, 25, columns, lambda *_: matrix[:0], "cpu", lambda a, b, ends: _squares(matrix[a:b], ends)
        )
        torch.testing.assert_close(squares, torch.zeros_like(expected).index_add_(0, owner, matrix.square()))
    assert bool((sums.segment_sums_on_device(owner[:0], 3, columns, lambda *_: matrix[:0], "cpu") == 0).all())


def test_a_tile_on_a_device_splits_no_owner(monkeypatch):
    """Unless the owner's rows are more than fit: what is summed at once begins where an owner does."""
    from mekrr_scale.kernels import sums

    lengths = [1, 3, 2, 7, 1, 1, 4, 2, 2, 5]
    owner = torch.arange(10).repeat_interleave(torch.tensor(lengths))
    starts = {0, *torch.tensor(lengths).cumsum(0).tolist()}
    monkeypatch.setattr(sums, "DEVICE_ELEMENTS", 7)
    seen = []

    def tile(a, b, *_):
        seen.append((a, b))
        return torch.ones(b - a, 1, dtype=torch.float64)

    found = sums.segment_sums_on_device(owner, 10, 1, tile, "cpu")
    assert found[:, 0].tolist() == lengths
    assert {end for ends in seen for end in ends} <= starts
    assert len(seen) < len(lengths)


def test_fused_sums_are_asked_for_where_there_are_rows(monkeypatch):
    """A stand-in for the kernel: a program for each structure and 256 columns; without structures none is started."""
    from mekrr_scale.kernels import fused

    grids = []

    class Launched:
        def __getitem__(self, grid):
            grids.append(grid)
            return self.sums

        def sums(self, t, bounds, total, columns, stride, BLOCK):  # noqa: N803  Triton's constants
            assert (total.shape, columns, stride, BLOCK) == (
                (len(bounds) - 1, t.shape[1]),
                t.shape[1],
                t.stride(0),
                256,
            )
            total[:] = _squares((0.5 * t).exp(), bounds)

    monkeypatch.setitem(sys.modules, "mekrr_scale.kernels.triton_sums", SimpleNamespace(exponential_sums=Launched()))
    t = torch.randn(6, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = fused.gaussian_sums(t, torch.tensor([0, 2, 2, 6]))
    torch.testing.assert_close(found, torch.stack([t[:2].exp().sum(0), torch.zeros(300).double(), t[2:].exp().sum(0)]))
    assert grids == [(3, 2)]
    assert fused.gaussian_sums(t[:0], torch.tensor([0])).shape == (0, 300)
    assert fused.gaussian_sums(t[:, :0], torch.tensor([0, 6])).shape == (1, 0)
    assert len(grids) == 1


def _squares(t, bounds):
    return torch.stack([t[a:b].square().sum(0) for a, b in zip(bounds[:-1], bounds[1:], strict=True)])


def test_the_fused_kernel_finds_its_names(monkeypatch):
    """Triton up to 3.3 looks among those of the kernel's module alone; a stand-in shows where they would be found."""
    made = SimpleNamespace(jit=lambda function: function, language=SimpleNamespace(constexpr=int))
    monkeypatch.setitem(sys.modules, "triton", made)
    monkeypatch.setitem(sys.modules, "triton.language", made.language)
    monkeypatch.delitem(sys.modules, "mekrr_scale.kernels.triton_sums", raising=False)
    function = importlib.import_module("mekrr_scale.kernels.triton_sums").exponential_sums
    monkeypatch.delitem(sys.modules, "mekrr_scale.kernels.triton_sums")
    function = inspect.unwrap(function)
    assert function.__closure__ is None
    assert function.__globals__["tl"] is made.language


def test_the_fused_kernel_compiles_for_a_gpu():
    """By Triton's own compiler, which needs no GPU; in a process whose functions are not wrapped for tests."""
    pytest.importorskip("triton")
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mekrr_scale.kernels.triton_sums import exponential_sums, weighted_sums
for element in ("*fp32", "*fp64"):
    ends = {"bounds": "*i64", "total": "*fp64", "columns": "i32", "stride": "i32"}
    weighed = {"t": element, "factors": element, "place": "*i64", **ends, "step": "i32"}
    for kernel, signature in ((exponential_sums, {"t": element, **ends}), (weighted_sums, weighed)):
        if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 2):  # which counts its arguments
            source = ASTSource(kernel, dict(enumerate(signature.values())), {len(signature): 256})
        else:
            source = ASTSource(kernel, {**signature, "BLOCK": "constexpr"}, {"BLOCK": 256})
        assert "ptx" in triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_fused_kernels():
    """On a GPU where there is one, else in Triton's interpreter; CUDA builds of torch bring Triton."""
    pytest.importorskip("triton")
    code = """
import torch
from mekrr_scale.kernels.fused import gaussian_sums, product_sums
torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
generator = torch.Generator(torch.get_default_device()).manual_seed(0)
t = -3 * torch.rand(37, 300, generator=generator, dtype=torch.float64)
bounds = torch.tensor([0, 5, 5, 20, 37])
found = gaussian_sums(t, bounds)
expected = torch.stack([t[a:b].exp().sum(0) for a, b in zip(bounds[:-1], bounds[1:])])
torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
factors, place = torch.rand(9, 300, generator=generator, dtype=torch.float64), torch.arange(37) % 9
found = product_sums(t, factors, place, bounds)
expected = torch.stack([(t * factors[place])[a:b].sum(0) for a, b in zip(bounds[:-1], bounds[1:])])
torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
"""
    environment = {**os.environ, **({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
