"""The campaign (``python -m tests.campaign``) in short: some damage to each kind of file, some calls of each kind."""

import random

import pytest

from tests.campaign import damage, inputs
from tests.campaign.place import copied, made


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return made(tmp_path_factory.mktemp("campaign") / "whole")


def test_no_damage_is_silent(whole):
    found, bad = damage.campaign(whole, 10, seed=1)
    assert not bad
    for kind, counts in found.items():
        seen = counts["error"] + counts["told"]
        assert seen > 5 or kind == "store, sidecars", (kind, counts)  # which nothing reads behind a manifest


def test_damage_would_be_seen_to_be_silent(whole):
    """The campaign itself can fail: a reader that looks at nothing."""
    kind = damage.Kind("x", "data.xyz", lambda folder: (folder / "data.xyz").read_bytes())
    work = copied(whole, whole.parent / "other")
    expected = damage.content(kind.read(work))
    assert damage.outcome(kind, work, expected) == "same"
    (work / "data.xyz").write_bytes(b"another")
    assert damage.outcome(kind, work, expected) == "SILENT"
    broken = damage.Kind("x", "data.xyz", lambda folder: 1 / 0)
    assert damage.outcome(broken, work, expected).startswith("TRACEBACK")


def test_bad_calls_end_with_a_line(whole):
    place = copied(whole, whole.parent / "inputs")
    inputs.bad_files(place)
    calls = inputs.calls()
    assert len(calls) > 1500
    assert {call.name for call in calls} >= set(inputs.BASES)
    random.Random(7).shuffle(calls)
    for call in calls[:20]:
        end = inputs.ended(call, place)
        assert not list(end.faults()), (str(call), end)


def test_bad_ends_would_be_seen(whole):
    place = copied(whole, whole.parent / "inputs")
    call = inputs.Call(("x",))

    def destroys():
        (place / "data.xyz").write_text("")

    def raises():
        raise KeyError("x")

    assert "destroyed ('data.xyz',)" in list(inputs.ended(call, place, destroys).faults())
    assert "traceback" in list(inputs.ended(call, place, raises).faults())
