"""Kills at counted points (``python -m tests.campaign kills``) in short, and that the campaign itself can fail."""

from pathlib import Path

import pytest

from tests.campaign import kills
from tests.campaign.ended import half
from tests.campaign.place import copied, made

SHORT = {
    "extract": 1, "store merge": 1, "fit, falkon": 1, "fit, kept sums": 1, "md": 2, "predict": 1, "finetune": 1,
    "curve": 1, "data_tools split": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    found = made(tmp_path_factory.mktemp("kills") / "whole")
    kills.warm(found)
    return found


@pytest.mark.parametrize("name", SHORT)
def test_what_is_killed_goes_on(whole, name):
    (scenario,) = (each for each in kills.SCENARIOS if each.name == name)
    found = kills.killed(scenario, whole, SHORT[name], seed=3)
    assert not found.faults
    assert found.points > 5


def test_every_command_that_writes_is_killed():
    words = {line.split()[0] for each in kills.SCENARIOS for phase in each.phases for line in phase}
    assert words >= {
        "extract",
        "store",
        "fit",
        "md",
        "relax",
        "predict",
        "evaluate",
        "distill",
        "finetune",
        "curve",
        "tune",
    }
    assert len({each.name for each in kills.SCENARIOS}) == len(kills.SCENARIOS)


def test_a_merge_that_lacks_only_its_end_goes_on_and_another_does_not(whole):
    """Killed between the manifest and the exit code: the same command must not find its own store in the way."""
    (merge,) = (each for each in kills.SCENARIOS if each.name == "store merge")
    (repack,) = (each for each in kills.SCENARIOS if each.name == "store repack")
    folder = kills.prepared(merge, whole)
    for scenario in (merge, merge, repack, repack):
        assert kills.attempt(scenario, folder)[1] == {0}, kills.said(folder)
    for line in ("store merge store -o joined", "store repack store -o packed", "store repack new -o packed"):
        other = kills.Scenario("other", ((line,),), ())
        assert kills.attempt(other, folder)[1] == {4}, line
        assert "is a finished store already" in " ".join(kills.said(folder).split())


def test_what_is_half_written_would_be_seen(whole, tmp_path):
    folder = copied(whole, tmp_path / "place")
    model = folder / "model.mekrr"
    expected = kills.WHOLE["model"](model)
    assert not list(half("model", model, expected, None))
    assert not list(half("model", folder / "gone", expected, None))
    model.write_bytes(model.read_bytes()[:200])
    assert "half-written" in next(half("model", model, expected, None))
    path = folder / "run.xyz"
    assert not list(half("stream", path, path.read_bytes() + b"more", None))
    assert list(half("stream", path, b"another", None))
    store = folder / "store"
    expected = kills.WHOLE["store"](store)
    assert not list(half("store", store, expected, None))
    assert "taken for a whole store" in next(half("store", store, [*expected[:2], [], False], None))


def test_a_program_that_writes_in_place_would_be_seen(whole, monkeypatch):
    """The same command with an output that is opened under its own name."""
    scenario = kills.Scenario("x", (("x",),), (("data.xyz", "structures"),))

    def careless():
        Path("data.xyz").write_text(Path("data.xyz").read_text().removesuffix("more") + "more")
        Path("note").touch()

    monkeypatch.setattr(kills, "program_of", lambda words: careless)
    monkeypatch.setattr(kills, "HOW", ("torn",))
    faults = kills.killed(scenario, whole, 3).faults
    assert any("neither what was nor what comes" in fault for fault in faults)
