"""Hashes and atomic writing of files."""

import hashlib
from pathlib import Path

import xxhash

from mekrr_scale.files import file_hash, free_bytes, publish_text, told_apart


def test_hashes_are_those_of_the_whole_content(tmp_path):
    data = bytes(range(256)) * 40_000  # more than one piece
    (tmp_path / "file").write_bytes(data)
    assert file_hash(tmp_path / "file", "sha256") == hashlib.sha256(data).hexdigest()
    assert file_hash(tmp_path / "file", "xxh3_128") == xxhash.xxh3_128_hexdigest(data)


def test_text_replaces_a_file_and_leaves_nothing_beside_it(tmp_path):
    for text in ("one", "two"):
        publish_text(tmp_path / "file", text)
        assert (tmp_path / "file").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_does_not_exist_yet_has_the_room_of_its_disk(tmp_path):
    assert free_bytes(tmp_path / "a" / "b") > 0


def test_names_of_files_are_never_the_same():
    """Their own, their path where several have one name, with its place where it is given twice."""
    paths = ["a/x", "b/x", "a/y", "c/z", "c/z"]
    assert told_apart([Path(path) for path in paths]) == ["a/x", "b/x", "y", "c/z (4)", "c/z (5)"]
