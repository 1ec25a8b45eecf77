"""Which structures of a store count: each geometry once.

The same geometry with the same labels is a copy. With other labels from the same source it was corrected, and the newer
labels count. With other labels from another source somebody has to say which are right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import get_args

import numpy as np
import xxhash
from jaxtyping import Float64, Int64, Shaped
from numpy import ndarray

from mekrr_scale.errors import ConfigError, StoreError
from mekrr_scale.store.documents import OnDuplicate
from mekrr_scale.store.format import ShardInfo
from mekrr_scale.store.origins import Origin
from mekrr_scale.store.reader import Shard
from mekrr_scale.store.sidecars import Sidecar

_SAME = {"energy": 1e-6, "forces": 1e-5, "stress": 1e-6}  # eV, eV/angstrom, eV/angstrom^3: what files' decimals leave
_HELD = 8  # shards whose labels are at hand

Place = tuple[int, int]  # of a structure: its shard among those listed, and its place in it


@dataclass(frozen=True)
class Known:
    """Labels of one structure of a shard; None where there are none."""

    id: int
    energy: float | None
    forces: Float64[ndarray, "atoms 3"] | None  # atoms as the shard orders them
    stress: Float64[ndarray, "6"] | None

    @property
    def rich(self) -> int:
        """How many kinds of labels there are."""
        return sum(getattr(self, name) is not None for name in _SAME)

    def agrees(self, other: Known, everywhere: bool) -> bool:
        """Whether the labels are the same.

        Args:
            everywhere: a label that only one of both has is a difference.
        """
        if self.id == other.id:
            return True
        for name, tolerance in _SAME.items():
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is None or theirs is None:
                if everywhere and (mine is None) is not (theirs is None):
                    return False
            elif not np.allclose(mine, theirs, rtol=0, atol=tolerance, equal_nan=True):
                return False
        return True


@dataclass
class Decision:
    """What does not count, and why."""

    excluded: dict[str, set[int]] = field(default_factory=dict)  # by the shard's name
    remarks: list[str] = field(default_factory=list)
    conflict: str = ""  # labels that differ between sources
    mattered: bool = False  # whether another policy would have other structures count


def decide(listed: Sequence[Sidecar], policy: OnDuplicate, already: Mapping[str, set[int]]) -> Decision:
    """Which structures of shards do not count.

    Args:
        policy: what to do about labels of the same geometry that differ between sources: take the ``newest``,
            ``keep`` all of them, copies with the same labels too, or (``error``) leave it to the caller.
        already: structures that were left out before, by the shard's name.

    Raises:
        StoreError: shards of an older version that cannot be told apart.
    """
    if policy not in get_args(OnDuplicate):
        raise ConfigError(f"on-duplicate is {policy!r}; say {', '.join(get_args(OnDuplicate))}")
    judge = _Judge(listed, policy, {name: set(places) for name, places in already.items()})
    for keys in judge.passes():
        for places in _groups(keys, judge.counting()):
            judge.take(places)
    judge.refuse_overlaps()
    return judge.decision()


def counted(item: Sidecar, excluded: Iterable[int]) -> ShardInfo:
    """What a manifest says of a shard of which some structures do not count."""
    info, left_out = item.info, tuple(sorted(excluded))
    if not left_out:
        return info
    shard = _opened(item)
    live = ~np.isin(np.arange(info.structures), left_out)
    atoms = {str(z): int(n[live].sum()) for z, n in zip(shard.z, shard.atoms, strict=True)}
    return replace(
        info,
        structures=int(live.sum()),
        atoms=sum(atoms.values()),
        directions=int(shard.directions[live].sum()),
        energies=int(np.isfinite(shard.small["/structure/energy"][live]).sum()),
        species={z: count for z, count in atoms.items() if count},
        excluded=left_out,
    )


def _groups(
    keys: Shaped[ndarray, " structures"], live: Shaped[ndarray, " structures"]
) -> Iterator[Int64[ndarray, " _"]]:
    """Numbers of the structures that count and share a key, group by group."""
    places = np.flatnonzero(live)
    order = places[np.argsort(keys[places], kind="stable")]
    ends = np.flatnonzero(np.diff(keys[order])) + 1
    starts, stops = np.concatenate([[0], ends]), np.concatenate([ends, [len(order)]])
    for start, stop in zip(starts[stops - starts > 1], stops[stops - starts > 1], strict=True):
        yield order[start:stop]


def _opened(item: Sidecar) -> Shard:
    return Shard(item.folder / item.info.path, item.info, "lazy")


def _n(count: int) -> str:
    return f"{count} structure{'s' * (count != 1)}"


class _Judge:
    """Goes through structures that share a geometry, and keeps count of what it decides."""

    def __init__(self, listed: Sequence[Sidecar], policy: OnDuplicate, excluded: dict[str, set[int]]) -> None:
        self.listed, self.policy, self.excluded = listed, policy, excluded
        self.old = [item.origins is None for item in listed]
        self.copies: Counter[str] = Counter()
        self.corrected: Counter[str] = Counter()
        self.repeated: Counter[str] = Counter()  # copies that count
        self.kept: list[tuple[Place, Place]] = []
        self.open = lru_cache(maxsize=_HELD)(lambda i: _opened(listed[i]))
        sizes = [item.info.structures for item in listed]
        self.owner = np.repeat(np.arange(len(listed)), sizes)
        self.at = np.concatenate([np.arange(size) for size in sizes] or [np.empty(0, np.int64)])

    @cached_property
    def origins(self) -> list[list[Origin]]:
        return [item.each() for item in self.listed]

    @cached_property
    def latest(self) -> dict[str, int]:
        """When each version was extracted last."""
        found: dict[str, int] = {}
        for item in self.listed:
            for origin, _ in item.origins.runs if item.origins is not None else ():
                found[origin.version] = max(found.get(origin.version, 0), origin.time)
        return found

    def passes(self) -> Iterator[Shaped[ndarray, " structures"]]:
        """What equal structures share: their geometry; where older shards do not tell it, label and features."""
        if not all(self.old):
            unknown = np.arange(len(self.at), dtype=np.uint64)
            known = [
                unknown[self.owner == i] if item.origins is None else item.origins.geometries
                for i, item in enumerate(self.listed)
            ]
            yield np.concatenate(known)
        if any(self.old):
            yield np.concatenate([self.open(i).small["/structure/id"] for i in range(len(self.listed))])
            yield self._features()

    def counting(self) -> Shaped[ndarray, " structures"]:
        """Which structures count by now."""
        live = np.ones(len(self.at), dtype=bool)
        for i, item in enumerate(self.listed):
            if item.info.path in self.excluded:
                live[(self.owner == i) & np.isin(self.at, sorted(self.excluded[item.info.path]))] = False
        return live

    def take(self, numbers: Int64[ndarray, " _"]) -> None:
        """Decide on structures of one geometry: the newest of each source, then between sources."""
        places = sorted(((int(self.owner[n]), int(self.at[n])) for n in numbers), key=self._age)
        if self.policy == "keep":
            self._keep(places)
            return
        newest: dict[str, Place] = {}
        for place in reversed(places):
            source = self._source(place)
            if source in newest:
                self._leave_out(place, newest[source], everywhere=True)
            else:
                newest[source] = place
        rivals = sorted(newest.values(), key=lambda place: (-self._known(place).rich, self._order(place)))
        if self.policy == "newest":
            rivals.sort(key=self._age, reverse=True)
        self._between(rivals)

    def _keep(self, places: list[Place]) -> None:
        """All that the latest version of each source holds, copies too: what stands there twice counts twice.

        Of a structure that was extracted twice, as with another group or in shards of another size, the newer counts.
        """
        newest = {self._source(place): place for place in places}
        last = {self._spot(place): place for place in places}
        counting: list[Place] = []
        for place in places:
            latest = newest[self._source(place)]
            if self._version(place) != self._version(latest) or last[self._spot(place)] != place:
                self._leave_out(place, latest, everywhere=True)
                continue
            if counting:
                if self._known(place).agrees(self._known(counting[0]), everywhere=False):
                    self.repeated[self._source(place)] += 1
                else:
                    self.kept.append((counting[0], place))
            counting.append(place)

    def _version(self, place: Place) -> str:
        return self.origins[place[0]][place[1]].version

    def _spot(self, place: Place) -> tuple[object, ...]:
        """Which structure of what was read it is; itself where that is not known."""
        version = self._version(place)
        return (version, int(self.open(place[0]).small["/structure/index"][place[1]])) if version else place

    def _between(self, rivals: list[Place]) -> None:
        counting = rivals[:1]
        for place in rivals[1:]:
            known = self._known(place)
            same = next((other for other in counting if known.agrees(self._known(other), everywhere=False)), None)
            if same is not None:
                self._exclude(place)
                self.copies[self._source(place)] += 1
                continue
            self.kept.append((counting[0], place))
            if self.policy == "newest":
                self._exclude(place)
            else:  # a conflict, which the caller hears of
                counting.append(place)

    def refuse_overlaps(self) -> None:
        """Shards of an older version do not tell geometries: of one range of an input one alone may count."""
        order = sorted(range(len(self.listed)), key=lambda i: (self.listed[i].info.input, self.listed[i].info.start))
        for i, k in zip(order, order[1:], strict=False):
            before, after = self.listed[i].info, self.listed[k].info
            if before.input != after.input or after.start >= before.stop or not (self.old[i] or self.old[k]):
                continue
            if self._counting_in(i, after.start, before.stop) and self._counting_in(k, after.start, before.stop):
                raise StoreError(
                    f"{before.path} and {after.path} both hold structure {after.start} of {before.input}, which "
                    "changed between two extractions, one of them by an older version. Extract into a new folder"
                )

    def decision(self) -> Decision:
        """All that was decided."""
        found = Decision(self.excluded, mattered=bool(self.kept or self.repeated))
        for source, count in self.copies.items():
            found.remarks.append(f"duplicates (same geometry, same labels) in {source}: {_n(count)}, each counts once")
        for source, count in self.repeated.items():
            found.remarks.append(f"duplicates (same geometry, same labels) in {source}: {_n(count)}, all of them count")
        for source, count in self.corrected.items():
            found.remarks.append(f"labels corrected in {source}: {_n(count)}, the newer labels count")
        for source, count in self._left_behind().items():
            found.remarks.append(
                f"no longer in {source} as it was extracted last: {_n(count)} of an earlier extraction, which still "
                "count; to be without them extract into a new folder"
            )
        if self.kept:
            found.conflict = self._conflict()
            how = "the newest count" if self.policy == "newest" else "all of them count"
            found.remarks.append(f"{found.conflict}: {how}")
        return found

    def _left_behind(self) -> Counter[str]:
        """Structures that count though the latest version of their source has them no longer."""
        runs = [(item.info.path, *run) for item in self.listed if item.origins is not None for run in item.origins.runs]
        newest: dict[str, Origin] = {}
        for _, origin, _ in runs:
            before = newest.setdefault(origin.source, origin)
            if self.latest[origin.version] > self.latest[before.version]:
                newest[origin.source] = origin
        found: Counter[str] = Counter()
        at, of = 0, ""
        for path, origin, count in runs:
            at, of = (at if path == of else 0), path
            if origin.version and origin.version != newest[origin.source].version:
                found[origin.source] += count - sum(at <= n < at + count for n in self.excluded.get(path, ()))
            at += count
        return +found

    def _conflict(self) -> str:
        names = [f"structure {self._index(place)} of {self._source(place)}" for place in self.kept[0]]
        one, other = (self._known(place).energy for place in self.kept[0])
        shown = "" if None in (one, other) or one == other else f" ({one:.6g} and {other:.6g} eV)"
        return f"other labels in one source than in another: {_n(len(self.kept))}, first {' and '.join(names)}{shown}"

    def _index(self, place: Place) -> int:
        """In its source."""
        index = int(self.open(place[0]).small["/structure/index"][place[1]])
        return index - self.origins[place[0]][place[1]].first

    def _leave_out(self, place: Place, winner: Place, everywhere: bool) -> None:
        agrees = self._known(place).agrees(self._known(winner), everywhere)
        (self.copies if agrees else self.corrected)[self._source(place)] += 1
        self._exclude(place)

    def _exclude(self, place: Place) -> None:
        self.excluded.setdefault(self.listed[place[0]].info.path, set()).add(place[1])

    def _source(self, place: Place) -> str:
        source = self.origins[place[0]][place[1]].source
        return Path(source).name if any(self.old) else source  # older shards do not know the folder

    def _order(self, place: Place) -> tuple[str, int, str, int]:
        info = self.listed[place[0]].info
        return info.input, info.start, info.path, place[1]

    def _age(self, place: Place) -> tuple[int, str, int, int, int, str]:
        """The older come first; within a version it is the order of the input."""
        origin, info = self.origins[place[0]][place[1]], self.listed[place[0]].info
        when = self.latest.get(origin.version, origin.time) if origin.version else origin.time
        return when, origin.version, info.start, place[1], origin.time, info.path

    def _counting_in(self, i: int, start: int, stop: int) -> bool:
        index = self.open(i).small["/structure/index"]
        left_out = self.excluded.get(self.listed[i].info.path, set())
        return any(start <= at < stop and n not in left_out for n, at in enumerate(index.tolist()))

    def _known(self, place: Place) -> Known:
        shard, at = self.open(place[0]), place[1]
        energy = float(shard.small["/structure/energy"][at])
        forces, stress = shard.small.get("/atom/forces"), shard.small.get("/structure/stress")
        of_atoms = None if forces is None else np.concatenate([forces[a:b] for a, b in shard.ranges(at)])
        return Known(
            int(shard.small["/structure/id"][at]),
            None if np.isnan(energy) else energy,
            None if of_atoms is None or np.isnan(of_atoms).all() else of_atoms,
            None if stress is None or np.isnan(stress[at]).all() else stress[at],
        )

    def _features(self) -> Shaped[ndarray, " structures"]:
        """A hash of the features of each structure, bitwise the same where the same program made them of the same.

        Within one input equal features are no copies: the first goes with the first of another input, and so on.
        """
        found: list[list[int]] = [[] for _ in self.listed]
        seen: Counter[tuple[str, int]] = Counter()
        for i in sorted(range(len(self.listed)), key=lambda i: self.listed[i].info.start):
            shard, info = self.open(i), self.listed[i].info
            for at in range(info.structures):
                digest = xxhash.xxh3_64(shard.atoms[:, at].tobytes() + shard.z.tobytes())
                for a, b in shard.ranges(at):
                    digest.update(shard.rows("/atom/features", a, b).tobytes())
                alike = info.input, digest.intdigest()
                seen[alike] += 1
                digest.update(seen[alike].to_bytes(8, "little"))
                found[i].append(digest.intdigest())
        return np.concatenate([np.array(hashes, dtype=np.uint64) for hashes in found])
