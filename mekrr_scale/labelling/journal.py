"""Results of a labelling that is under way: a line for each frame, so that a kill costs those at hand alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from mekrr_scale.errors import ConfigError
from mekrr_scale.files import Document, is_whole, sealed, unsealed

_FORMAT = "mekrr-scale labels 1"


@dataclass
class LabelJournal:
    """``OUT.labels.jsonl`` beside the output: what the labelling is, then results in any order.

    Lines have checksums; what a kill left of the last one is cut off. Numbers are written so that they come back to
    the bit.

    Args:
        identity: calculator and frames; a journal of others is refused.
    """

    output: Path
    identity: Document
    places: dict[int, int] = field(default_factory=dict)  # of frames' lines, in bytes

    @property
    def path(self) -> Path:
        return journal_beside(self.output)

    def begin(self, anew: bool = False) -> None:
        """Read what is there, or begin.

        Args:
            anew: throw another labelling's away.

        Raises:
            ConfigError: it is another labelling's.
        """
        self.places.clear()
        end = 0
        with self.path.open("ab+") as stream:  # which is locked, so that it stays the same file
            stream.seek(0)
            head = _read(stream.readline())
            if head is not None:
                differing = [key for key in self.identity if head.get(key) != self.identity[key]]
                if differing and not anew:
                    raise ConfigError(
                        f"{self.path} is of a labelling with another {' and '.join(differing)}; name another output, "
                        "or begin anew with --overwrite"
                    )
                end = 0 if differing else self._known(stream)
            stream.truncate(end)
        if not end:
            self._append({"format": _FORMAT, **self.identity})

    def empty(self) -> None:
        """Throw the results away."""
        self.places.clear()
        with self.path.open("rb+") as stream:
            stream.truncate(0)
        self._append({"format": _FORMAT, **self.identity})

    def _known(self, stream: BinaryIO) -> int:
        """Note where results are; returns the end of the last whole line."""
        while True:
            place = stream.tell()
            found = _read(stream.readline())
            if found is None:
                return place
            if "reason" not in found:  # what failed is tried again
                self.places[int(cast(int, found["index"]))] = place

    def add(self, index: int, result: Document) -> None:
        """Keep the result of a frame."""
        place = self._append({"index": index, **result})
        if "reason" not in result:
            self.places[index] = place

    def _append(self, document: Document) -> int:
        with self.path.open("ab") as stream:
            place = stream.seek(0, 2)
            stream.write(json.dumps(sealed(document)).encode() + b"\n")
        return place

    def result(self, index: int) -> dict[str, Any]:
        """What was found for a frame."""
        with self.path.open("rb") as stream:
            stream.seek(self.places[index])
            found = _read(stream.readline())
        if found is None:
            raise ConfigError(f"{self.path} has changed while it was written; run the same again")
        return dict(found)

    def remove(self) -> None:
        """Everything is in the output."""
        self.path.unlink(missing_ok=True)


def _read(line: bytes) -> Document | None:
    """A whole line; None of a torn one, or at the end."""
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return unsealed(found) if isinstance(found, dict) and is_whole(found) else None


def journal_beside(output: Path) -> Path:
    """Where results are kept until all are there."""
    return output.with_name(f"{output.name}.labels.jsonl")
