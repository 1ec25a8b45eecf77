"""Downloads that are checked against a list of sha256 sums."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mekrr_scale.errors import StructureError
from mekrr_scale.files import file_hash

_SLOWEST = 1000  # bytes a second


def read_sums(path: Path | str) -> dict[str, str]:
    """File names and sha256 sums from a file as ``sha256sum`` writes it.

    Raises:
        StructureError: no such file, or a line that is not a sum and a name.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise StructureError(f"cannot read the checksum file {path}: {error}") from error
    sums = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        digest, _, name = line.strip().partition(" ")
        name = name.strip().lstrip("*")
        if len(digest) != 64 or not name:
            raise StructureError(f"{path}, line {number}: expected a sha256 sum and a file name")
        sums[name] = digest.lower()
    return sums


def download(url: str, folder: Path | str, sums: Path | str, timeout: float = 60.0) -> Path:
    """Fetch a file whose sum is listed; one that is there with the right sum is not fetched again.

    Args:
        sums: checksum file; download none that it does not list.
        timeout: seconds without an answer, or with less than a kilobyte a second, after which it ends.

    Raises:
        StructureError: not listed, not reachable, too slow, or with another sum (the file is then removed).
    """
    name = url.rstrip("/").rsplit("/", 1)[-1]
    expected = read_sums(sums).get(name)
    if expected is None:
        raise StructureError(f"{sums} has no sum for {name}; add the line that its publisher gives")
    target = Path(folder) / name
    if target.is_file() and file_hash(target, "sha256") == expected:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=timeout) as source, partial.open("wb") as stream:
            for piece in _pieces(source, timeout):
                stream.write(piece)
    except (urllib.error.URLError, OSError, ValueError) as error:
        partial.unlink(missing_ok=True)
        raise StructureError(f"cannot download {url}: {error}; fetch it by other means into {folder}") from error
    found = file_hash(partial, "sha256")
    if found != expected:
        partial.unlink()
        raise StructureError(f"{url} has sha256 {found}, {sums} says {expected}; the file was removed")
    os.replace(partial, target)
    return target


def _pieces(source: Any, timeout: float) -> Iterator[bytes]:
    """What comes, as it comes; a server that drips for ever is left.

    Raises:
        TimeoutError: in a span of so many seconds came less than a kilobyte for each.
    """
    read = getattr(source, "read1", source.read)  # ``read`` waits until a whole piece is there
    begin, received = time.monotonic(), 0
    for piece in iter(lambda: read(1 << 16), b""):
        yield piece
        received += len(piece)
        now = time.monotonic()
        if now - begin > timeout:
            if received < _SLOWEST * (now - begin):
                raise TimeoutError(f"{received} bytes in {now - begin:.0f} s are too few")
            begin, received = now, 0
