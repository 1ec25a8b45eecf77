"""Results in a file: found again by their key, whatever ended the run that wrote them."""

import pytest

from benchmarks.records import Records, key


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path / "results" / "lines.jsonl")


def test_a_result_is_found_by_its_key(records):
    assert records.all() == {}
    records.add({"key": "a", "error": 1.0})
    records.add({"key": "b", "error": 2.0})
    assert records.add({"key": "a", "error": 3.0})["error"] == 3.0
    assert {name: record["error"] for name, record in records.all().items()} == {"a": 3.0, "b": 2.0}


def test_what_a_kill_left_of_a_line_is_no_result_and_harms_no_other(records):
    records.add({"key": "a", "error": 1.0})
    with records.path.open("a", encoding="utf-8") as stream:
        stream.write('{"key": "b", "err')
    records.add({"key": "c", "error": 2.0})
    assert list(records.all()) == ["a", "c"]


def test_a_record_without_a_key_is_refused(records):
    with pytest.raises(ValueError, match="without a key"):
        records.add({"error": 1.0})
    assert not records.path.exists()


def test_keys_are_of_content():
    assert key({"a": 1, "b": [1.5]}) == key({"b": [1.5], "a": 1})
    assert len({key({"a": 1}), key({"a": 2}), key({"b": 1})}) == 3
