"""Parts of an extraction: each says when it begins and when it is done, so that nobody takes some for all."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mekrr_scale.errors import StoreError
from mekrr_scale.files import Document, publish_text
from mekrr_scale.store.documents import OnDuplicate, policy_of, typed
from mekrr_scale.store.format import StoreHeader, document, read_sealed, sealed

_NAME = re.compile(r"part-(\d{1,9})-of-(\d{1,9})-([0-9a-f]{8})\.part")


@dataclass(frozen=True)
class Part:
    """One of the parts of an extraction, as it stands in a small file of the store's folder."""

    index: int  # from 1
    count: int
    version: str  # hash of what is extracted and how
    sources: tuple[str, ...]
    time: int = 0  # nanoseconds since 1970, at its start
    done: bool = False
    structures: int = 0  # of the whole input that can be used; 0 until it is done
    own: int = 0  # of these, those in shards of this part
    on_duplicate: OnDuplicate = "error"  # what was said about labels that differ between sources

    def path(self, folder: Path) -> Path:
        return folder / f"part-{self.index}-of-{self.count}-{self.version[:8]}.part"

    def publish(self, folder: Path, header: StoreHeader) -> None:
        """Write it, in place of what it said before."""
        fields = {**vars(self), "sources": list(self.sources)}
        publish_text(self.path(folder), sealed({**document(header), "part": fields}))

    @classmethod
    def read(cls, path: Path) -> Part | None:
        """None for a damaged one, as if the part were not done."""
        try:
            data: Any = cast(Any, read_sealed(path)).get("part")
            typed(data, "part", int, "index", "count", "time", "structures", "own")
            typed(data, "part", str, "version")
            typed(data, "part", list, "sources")
            sources = tuple(map(str, data["sources"]))
        except StoreError:
            return None
        numbers = {name: data[name] for name in ("index", "count", "time", "structures", "own")}
        done, said = data.get("done") is True, policy_of(data.get("on_duplicate"))
        return cls(version=data["version"], sources=sources, done=done, on_duplicate=said, **numbers)


@dataclass(frozen=True)
class Lack:
    """An extraction of which not all parts are done."""

    source: str
    count: int  # parts in all
    done: frozenset[int]
    own: int  # structures of the parts that are done
    structures: int  # in all; 0 if no part says so

    @property
    def said(self) -> str:
        lacking = [i for i in range(1, self.count + 1) if i not in self.done]
        shown = ", ".join(f"{i}/{self.count}" for i in lacking[:5]) + (" and more" if len(lacking) > 5 else "")
        counts = f" ({self.own} of {self.structures} structures are there)" if self.structures else ""
        return f"{'part' if len(lacking) == 1 else 'parts'} {shown} of {self.source} not done{counts}"

    def joined(self, other: Lack) -> Lack | None:
        """What is missing where both are there; None if nothing is."""
        if self.count != other.count:
            return max(self, other, key=lambda lack: lack.own)
        own = self.own + sum((other.own,) if not self.done & other.done else ())
        done = self.done | other.done
        structures = max(self.structures, other.structures)
        return None if len(done) == self.count else Lack(self.source, self.count, done, own, structures)

    def to_dict(self) -> Document:
        return {**vars(self), "done": sorted(self.done)}

    @classmethod
    def from_dict(cls, data: Any) -> Lack:
        """Of a manifest.

        Raises:
            StoreError: it is malformed.
        """
        typed(data, "incomplete", str, "source")
        typed(data, "incomplete", int, "count", "own", "structures")
        typed(data, "incomplete", list, "done")
        done = frozenset(i for i in data["done"] if type(i) is int)
        return cls(data["source"], data["count"], done, data["own"], data["structures"])


def parts_in(folder: Path) -> list[Part]:
    """The parts of which a folder knows; a damaged file counts as a part that is not done."""
    found = []
    for path in sorted(folder.glob("*.part")):
        match = _NAME.fullmatch(path.name)
        if match:
            index, count, version = int(match[1]), int(match[2]), match[3]
            found.append(Part.read(path) or Part(index, count, version, ()))
    return found


def missing(parts: Iterable[Part]) -> dict[str, Lack]:
    """What is missing of extractions that are not complete, by their version; those that a later one of the same
    sources took the place of do not count."""
    versions: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        versions[part.version].append(part)
    latest: dict[tuple[str, ...], int] = {}
    for listed in versions.values():
        sources, time = listed[0].sources, max(part.time for part in listed)
        latest[sources] = max(latest.get(sources, 0), time)
    found = {}
    for version, listed in versions.items():
        current = max(part.time for part in listed) == latest[listed[0].sources] or not listed[0].sources
        lack = _missing(listed) if current else None
        if lack is not None:
            found[version] = lack
    return found


def _missing(listed: Sequence[Part]) -> Lack | None:
    """None if the parts are all done, in any division."""
    done: dict[int, set[int]] = defaultdict(set)
    for part in listed:
        done[part.count] |= {part.index} if part.done else set()
    if any(len(indices) == count for count, indices in done.items()):
        return None
    newest = max(listed, key=lambda part: part.time)
    finished = [part for part in listed if part.done and part.count == newest.count]
    names = ", ".join(Path(source).name for source in newest.sources[:3]) or "the input"
    whole = finished[0].structures if finished else 0
    return Lack(names, newest.count, frozenset(done[newest.count]), sum(part.own for part in finished), whole)
