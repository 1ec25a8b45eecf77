"""Pages that a process keeps for its next tensors."""

import ctypes
import resource
import sys

import pytest
import torch
from ase.build import molecule

import mekrr_scale as ms
from mekrr_scale.arrays import free_kept

SIZE = 2**26  # bytes; glibc's own thresholds end at half of it

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is not glibc"
)


def pages(repeats=5):
    """Pages that the system gives for a tensor that comes and goes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(repeats):
        torch.empty(SIZE, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident():
    """Bytes of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def pages_are_kept_in_the_block_and_given_back_at_its_end():
    usual, before = pages(), resident()
    with ms.kept_memory():
        pages()  # until what is left between pieces is found
        assert pages() < 0.05 * usual
        with ms.kept_memory():
            pass
        assert pages() < 0.05 * usual  # the inner block's end is not the outer's
        assert free_kept() >= SIZE
        assert resident() > before + SIZE // 2
    assert resident() < before + SIZE // 4
    assert pages() > 0.5 * usual


def what_went_back_to_the_system_is_not_counted_twice():
    """Free pieces below one that is used stay in the heap's books when their pages are given back."""
    with ms.kept_memory():
        large = torch.ones(16 * SIZE, dtype=torch.uint8)
        above = torch.ones(SIZE, dtype=torch.uint8)
        del large
        assert free_kept() >= 15 * SIZE
    assert free_kept() < 8 * SIZE
    assert int(above.sum()) == SIZE


def nothing_is_kept_where_it_is_not_wanted():
    usual = pages()
    with ms.kept_memory(False):
        assert pages() > 0.5 * usual


def an_error_ends_it():
    usual = pages()
    with pytest.raises(ZeroDivisionError), ms.kept_memory():
        raise ZeroDivisionError
    assert pages() > 0.5 * usual


@pytest.mark.parametrize(
    "check",
    [
        pages_are_kept_in_the_block_and_given_back_at_its_end,
        what_went_back_to_the_system_is_not_counted_twice,
        nothing_is_kept_where_it_is_not_wanted,
        an_error_ends_it,
    ],
)
def test_pages(check, warm):
    """In a process whose heap no other test has left pieces in."""
    process = warm.start("-c", f"from tests.arrays.test_heap import {check.__name__} as check; check()")
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors


def test_what_is_kept_counts_as_free_memory(monkeypatch):
    """Otherwise the next evaluation would be made in chunks, since the last one has left so little."""
    from mekrr_scale.backbones import memory

    with ms.kept_memory():
        monkeypatch.setattr(memory, "free_kept", lambda: 0)
        others = memory.free_memory(torch.device("cpu"))
        monkeypatch.setattr(memory, "free_kept", lambda: 10**13)
        assert memory.free_memory(torch.device("cpu")) > others + 10**12


def test_dynamics_keep_it_unless_memory_is_stated(model_file, monkeypatch, tmp_path):
    from mekrr_scale.simulation import bounds

    atoms, seen = molecule("CH3CH2OH"), []
    monkeypatch.setattr(bounds, "kept_memory", lambda keep: seen.append(keep) or ms.kept_memory(keep))
    for bound, name in ((None, "free"), ("4GB", "stated")):
        calculator = ms.MekrrCalculator(model_file, max_memory=bound)
        ms.run_md(atoms, calculator, tmp_path / f"{name}.xyz", ms.MdPlan(steps=1))
        with pytest.raises(ms.SimulationError):
            ms.relax(atoms, calculator, steps=1, force=1e-9)
    assert seen == [True, True, False, False]
