"""Sums against exact ones, whatever is added and in whatever order; shares of work."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mekrr_scale.distributed import ExactSum, first_host, share

ORDINARY = st.floats(-1e6, 1e6, allow_subnormal=False)
ANY = st.builds(math.ldexp, st.floats(-1, 1, allow_subnormal=False), st.integers(-300, 300))
PARTS = st.lists(st.one_of(ORDINARY, ANY, st.just(0.0)), min_size=1, max_size=25)


def summed(parts, bins=4):
    total = ExactSum(bins=bins)
    for part in parts:
        total.add(torch.tensor(part, dtype=torch.float64))
    return float(total.value())


@settings(max_examples=200)
@given(PARTS, st.randoms(use_true_random=False), st.sampled_from([3, 4]))
def test_sums_are_those_of_fractions_in_any_order(parts, generator, bins):
    """Within what the bins drop of each part, and the rounding of the bins' own sums."""
    found = summed(parts, bins)
    exact = sum(map(Fraction, parts), Fraction(0))
    largest = max(map(abs, parts))
    dropped = len(parts) * largest * 2.0 ** (28 - 28 * bins)
    rounded = 2.0**-52 * len(parts) * largest
    assert abs(Fraction(found) - exact) <= Fraction(dropped) + Fraction(rounded)
    shuffled = list(parts)
    generator.shuffle(shuffled)
    assert summed(shuffled, bins) == found
    assert summed([*parts, 0.0], bins) == found


@settings(max_examples=100)
@given(st.lists(ORDINARY, min_size=1, max_size=20))
def test_sums_of_one_sign_are_rounded_once_or_twice(parts):
    """Nothing cancels: the result is that of math.fsum but for the last bits."""
    parts = [abs(part) for part in parts]
    assume(max(parts) > 0)
    assert summed(parts) == pytest.approx(math.fsum(parts), rel=2.0**-51, abs=0)


@settings(max_examples=60)
@given(st.lists(st.tuples(ANY, ANY, ORDINARY), min_size=1, max_size=12), st.integers(0, 12))
def test_elements_and_what_cancels(parts, cut):
    """What was added and is taken away again leaves what the rest gives, bit by bit, where bins hold all of it."""
    rows = [torch.tensor(row, dtype=torch.float64) for row in parts]
    total, rest = ExactSum(3), ExactSum(3)
    for row in rows:
        total.add(row.clone())
    for row in rows[:cut]:
        total.add(-row)
    for row in rows[cut:]:
        rest.add(row.clone())
    largest = float(torch.stack(rows).abs().max())
    error = (total.value() - rest.value()).abs().max()
    assert float(error) <= 2 * len(rows) * largest * 2.0**-52


@settings(max_examples=100)
@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 8))
def test_work_is_dealt_once_and_evenly(sizes, parts):
    """Every item to one part, and no part above the mean by more than the largest item."""
    dealt = share(sizes, parts)
    assert len(dealt) == parts
    assert sorted(item for items in dealt for item in items) == list(range(len(sizes)))
    loads = [sum(sizes[item] for item in items) for items in dealt]
    assert max(loads) <= sum(sizes) / parts + max(sizes, default=0)
    assert max(loads) - min(loads) <= max(sizes, default=0)


NAME = st.from_regex(r"[a-z]{1,4}[-.]?", fullmatch=True)
RANGES = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9)), min_size=1, max_size=3)


@settings(max_examples=100)
@given(NAME, RANGES, st.sampled_from(["", "-ib", "x"]), st.lists(NAME, max_size=2))
def test_first_hosts_of_node_lists(name, ranges, suffix, others):
    """As Slurm writes them: prefix[1-4,7]suffix,others."""
    inside = ",".join(f"{a:02d}" if n == 0 else f"{a:02d}-{a + n:02d}" for a, n in ranges)
    assert first_host(",".join([f"{name}[{inside}]{suffix}", *others])) == f"{name}{ranges[0][0]:02d}{suffix}"
    assert first_host(",".join([f"{name}7{suffix}", *others])) == f"{name}7{suffix}"
    assert first_host(f"{name}[2-3]n[{inside}]{suffix}") == f"{name}2n{ranges[0][0]:02d}{suffix}"
