"""Results that outlive the run that found them: a JSON object a line, found again by its key."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from benchmarks.kept import ROOT

RESULTS = ROOT / "benchmarks" / "results"  # in the repository, so that a later session goes on there

Record = dict[str, Any]


def key(fields: Mapping[str, Any]) -> str:
    """A few letters for plain values; the same whatever their order."""
    return xxhash.xxh3_64_hexdigest(json.dumps(fields, sort_keys=True).encode())[:12]


@dataclass(frozen=True)
class Records:
    """A file that several processes may write at the same time, a line in one piece."""

    path: Path

    def all(self) -> dict[str, Record]:
        """By key; of two under one key the later. What a kill has left of a line is not a result."""
        found: dict[str, Record] = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    continue
                found[record["key"]] = record
        return found

    def add(self, record: Record) -> Record:
        """One line more, on the disk before this returns; returns the record."""
        if not record.get("key"):
            raise ValueError("a record without a key would never be found again")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        begun = "\n" if self._torn() else ""
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, f"{begun}{json.dumps(record)}\n".encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        return record

    def _torn(self) -> bool:
        """Whether the last line was not finished."""
        if not self.path.exists() or not self.path.stat().st_size:
            return False
        with self.path.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) != b"\n"
