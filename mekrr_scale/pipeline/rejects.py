"""Structures that an extraction leaves out, and why."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict
from pathlib import Path

from mekrr_scale.errors import StoreError
from mekrr_scale.structures import Reject


class Rejects:
    """The list of structures left out, rewritten by every run and published at its end."""

    def __init__(self, folder: Path, part: tuple[int, int]) -> None:
        suffix = "" if part[1] == 1 else f"-{part[0]}-of-{part[1]}"
        self.path = folder / f"rejects{suffix}.jsonl"
        self.temporary = folder / f".tmp-{uuid.uuid4().hex}"
        self.count = 0

    def __enter__(self) -> Rejects:
        try:
            self.stream = self.temporary.open("w", encoding="utf-8")
        except OSError as error:
            raise StoreError(
                f"cannot write to {self.path.parent}: {error}; choose a folder you may write to"
            ) from error
        return self

    def add(self, reject: Reject) -> None:
        self.count += 1
        self.stream.write(json.dumps(asdict(reject)) + "\n")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stream.close()
        if self.count:
            os.replace(self.temporary, self.path)
            return
        self.temporary.unlink(missing_ok=True)
        if kind is None:
            self.path.unlink(missing_ok=True)
