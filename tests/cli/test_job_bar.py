"""The progress of all ranks on the first one's bar."""

import pytest
from torch.distributed import HashStore

from mekrr_scale.cli import console
from mekrr_scale.cli.console import JobBar
from mekrr_scale.distributed import Group


class Bar:
    """Writes down what it is told."""

    def __init__(self):
        self.lines = []

    def stage(self, name, total=None, unit=""):
        self.lines.append((name, total, unit))

    def advance(self, steps=1):
        self.lines.append(steps)

    def note(self, text):
        self.lines.append(text)


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_the_first_rank_shows_what_all_have_done(clock):
    store = HashStore()
    first, second = Bar(), Bar()
    bars = [JobBar(bar, Group(rank, 2, store=store)) for rank, bar in enumerate((first, second))]
    for bar in bars:
        bar.stage("rows", 20, "structures")
    bars[1].advance(3)  # not told yet: a call for each step would be many
    bars[0].advance(2)
    assert first.lines == [("rows", 20, "structures")]
    clock[0] = 1.0
    bars[1].advance(4)
    bars[0].advance()
    assert first.lines[1:] == [7 + 3]
    bars[0].advance(5)
    bars[1].advance()
    for bar in bars:  # what waits is told with the next stage, and counts for its own
        bar.stage("iterations")
    assert first.lines[2:] == [5, ("iterations", None, "")]
    clock[0] = 2.0
    bars[1].advance(2)
    bars[0].advance(1)
    assert first.lines[-1] == 3
    for bar in bars:
        bar.note("done")
    assert first.lines[-1] == "done"
    assert second.lines == []
