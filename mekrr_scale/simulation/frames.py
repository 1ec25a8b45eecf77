"""Checksums of trajectories that grow."""

from __future__ import annotations

from pathlib import Path

import xxhash

_PIECE = 8 * 1024 * 1024


class FrameHash:
    """xxh3 of the first bytes of a file, which are read once however often it is asked."""

    def __init__(self) -> None:
        self._digest, self._read = xxhash.xxh3_128(), 0

    def of(self, path: Path, size: int) -> str:
        """The hexadecimal hash of the first ``size`` bytes; of fewer, where there are no more."""
        if size < self._read:
            self._digest, self._read = xxhash.xxh3_128(), 0
        with path.open("rb") as stream:
            stream.seek(self._read)
            while piece := stream.read(min(size - self._read, _PIECE)):
                self._digest.update(piece)
                self._read += len(piece)
        return self._digest.hexdigest()
