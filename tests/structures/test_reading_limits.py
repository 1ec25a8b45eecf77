"""Files that are no structures, or far too much: one error that says what to do, in no time and little memory."""

import bz2
import contextlib
import gc
import gzip
import lzma
import os
import sqlite3
import warnings
from contextlib import closing

import numpy as np
import pytest
from ase import Atoms

from mekrr_scale.errors import StructureError
from mekrr_scale.structures import count_structures, read_structures, write_structures

FRAME = (
    b'2\nLattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3 energy=-1.5 pbc="T T T"\n'
    b"H 0.0 0.0 0.0\nH 0.0 0.0 0.75\n"
)
PACKERS = {"xz": lzma.compress, "gz": gzip.compress, "bz2": bz2.compress}
NOISE = np.random.default_rng(0).bytes(4000)


def refused(path, match):
    """By reading, and by counting where no number of frames can be told; a frame that is broken is still one."""
    with pytest.raises(StructureError, match=match) as caught:
        list(read_structures(path))
    assert str(path) in str(caught.value)
    with contextlib.suppress(StructureError):
        assert count_structures(path) in (None, 1, 2, 300)


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_cut_off_archives(tmp_path, suffix, share):
    path = tmp_path / f"cut.xyz.{suffix}"
    data = PACKERS[suffix](FRAME * 300 + NOISE.hex().encode())
    path.write_bytes(data[: int(share * len(data))])
    refused(path, "cut off or damaged|cannot be read|ends in the middle")


@pytest.mark.parametrize("suffix", PACKERS)
def test_what_is_no_archive(tmp_path, suffix):
    path = tmp_path / f"noise.xyz.{suffix}"
    path.write_bytes(NOISE)
    refused(path, "cannot be read|cut off or damaged")


@pytest.mark.parametrize("suffix", PACKERS)
def test_bombs_are_not_unpacked(tmp_path, suffix):
    """Neither frames by the stream, nor other formats by way of a scratch file."""
    packed = PACKERS[suffix](bytes(66 * 1024**2))
    for name in ("bomb.xyz", "bomb.cif"):
        path = tmp_path / f"{name}.{suffix}"
        path.write_bytes(packed)
        with pytest.raises(StructureError, match="times as long"):
            list(read_structures(path))


def test_what_is_much_but_no_bomb(tmp_path):
    path = tmp_path / "many.xyz.xz"
    path.write_bytes(lzma.compress(FRAME * 2000))
    assert count_structures(path) == 2000


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (FRAME.replace(b"2\n", b"-2\n", 1), "expected a number of atoms, found '-2'"),
        (FRAME.replace(b"2\n", b"99999999999999999999\n", 1), "is not a number of atoms"),
        (FRAME.replace(b"2\n", b"999999\n", 1), "ends in the middle"),
        (FRAME.replace(b"pos:R:3", b"pos:R:3:more:R:99999999"), "announces 100000003 columns"),
        (FRAME.replace(b"energy", b"na\xefve=1 energy"), "not text in UTF-8 .byte 0xef.*iconv"),
        (FRAME.decode().encode("utf-16"), "UTF-16.*iconv"),
        (FRAME + b"2\n\0\x80", "no text"),
        (NOISE, "cannot be read|expected a number"),
        (b"two\n", "expected a number of atoms, found 'two'"),
    ],
)
def test_texts(tmp_path, data, match):
    path = tmp_path / "file.xyz"
    path.write_bytes(data)
    refused(path, match)


def test_good_texts_with_marks_and_line_ends(tmp_path):
    for name, data in (("bom", b"\xef\xbb\xbf" + FRAME), ("crlf", FRAME.replace(b"\n", b"\r\n"))):
        path = tmp_path / f"{name}.xyz"
        path.write_bytes(data)
        (atoms,) = read_structures(path)
        assert atoms.get_potential_energy() == -1.5
        assert count_structures(path) == 1


@pytest.mark.parametrize("suffix", ["db", "traj", "cif", "json"])
def test_other_formats(tmp_path, suffix):
    path = tmp_path / f"noise.{suffix}"
    path.write_bytes(NOISE)
    with pytest.raises(StructureError, match="cannot be read"):
        list(read_structures(path))
    if suffix in ("db", "traj"):
        with pytest.raises(StructureError, match="cannot be read"):
            count_structures(path)


def test_databases_are_read_and_nothing_else(tmp_path):
    """ASE makes its tables in whatever database it opens, and leaves it open."""
    empty, other, packed = tmp_path / "empty.db", tmp_path / "other.db", tmp_path / "a.db.gz"
    empty.touch()
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE molecules (id INTEGER)")
        database.commit()
    before = other.read_bytes()
    for path in (empty, other):
        for read in (count_structures, lambda path: list(read_structures(path))):
            with pytest.raises(StructureError, match="no database of ASE's"):
                read(path)
    assert (empty.read_bytes(), other.read_bytes()) == (b"", before)
    write_structures(tmp_path / "a.db", [Atoms("H"), Atoms("He")])
    packed.write_bytes(gzip.compress((tmp_path / "a.db").read_bytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ["".join(atoms.symbols) for atoms in read_structures(packed)] == ["H", "He"]
        gc.collect()


def test_pipes_and_devices_are_told(tmp_path):
    """They would be read for ever, or can be read once only."""
    os.mkfifo(tmp_path / "pipe.xyz")
    refused(tmp_path / "pipe.xyz", "pipe or a device")
    with pytest.raises(StructureError, match="pipe or a device"):
        list(read_structures("/dev/zero", "extxyz"))
    refused(tmp_path / "none.xyz", "there is no file")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file" / "below.xyz", "there is no file")
