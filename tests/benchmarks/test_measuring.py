"""What benchmarks measure is what they say: peaks that are gone afterwards, first and further runs, slopes."""

import mmap
import time

import numpy as np
import pytest

from benchmarks import measuring
from benchmarks.falkon_iterations import reached
from benchmarks.measuring import Peak, alike, exponent
from benchmarks.nve import drift


def test_peak_is_seen_after_it_is_gone():
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # new pages, whatever the process has to spare
    with Peak() as peak, mmap.mmap(-1, 64_000_000, private) as block:
        for place in range(0, len(block), mmap.PAGESIZE):
            block[place] = 1
        ends = time.monotonic() + 60
        while peak.most < peak.before + 60 and time.monotonic() < ends:  # until the other thread has looked
            time.sleep(0.001)
    assert 60 < peak.added < 80
    assert measuring.anonymous_mb() < peak.before + 20


def test_first_runs_are_not_among_the_best(monkeypatch):
    """Each has a cold first run; the best is of as many further ones for each."""
    clock = [0.0]
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock[0])
    calls = []

    def taking(name, seconds):
        left = iter(seconds)

        def work():
            calls.append(name)
            clock[0] += next(left)

        return work

    found = alike([taking("a", [1.0, 5.0, 4.0]), taking("b", [9.0, 2.0, 3.0])], repeats=2)
    assert found == [(1.0, 4.0), (9.0, 2.0)]
    assert calls == ["a", "b", "a", "b", "a", "b"]


def test_exponent_is_that_of_what_was_measured():
    sizes = np.array([100.0, 200.0, 400.0])
    assert exponent(sizes, 3 * sizes**2) == pytest.approx(2)
    assert exponent(sizes, [5.0, 5.0, 5.0]) == pytest.approx(0)
    assert np.isnan(exponent(sizes, [0.0, 1.0, 2.0]))  # too small to be seen: no slope
    assert np.isnan(exponent([100.0], [1.0]))


def test_iterations_that_were_not_made_are_not_told():
    assert reached([1e-2, 1e-6, 1e-8], 1e-5) == 2
    assert reached([1e-2] * 120, 1e-5) == "not in 120"


def test_drift_is_per_ten_picoseconds():
    times = np.linspace(0, 20, 201)  # ps
    assert drift(times, list(0.3 * times)) == pytest.approx(3.0)
