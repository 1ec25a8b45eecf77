"""Making a manifest, joining stores, and writing a store anew in other shards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import xxhash

from mekrr_scale.arrays import Compression
from mekrr_scale.errors import ConfigError, StoreError, require_known
from mekrr_scale.files import file_hash, publish_text, sweep, temporary_path
from mekrr_scale.store.axes import publish_axes
from mekrr_scale.store.documents import EXCLUSIONS, MANIFEST, SIDECAR, OnDuplicate, again
from mekrr_scale.store.duplicates import Decision, counted, decide
from mekrr_scale.store.energies import common_energy, define_energy, energy_definition
from mekrr_scale.store.format import ShardInfo, StoreHeader, document, sealed
from mekrr_scale.store.parts import Lack, Part, missing, parts_in
from mekrr_scale.store.reader import FeatureStore
from mekrr_scale.store.reduction import Columns, Reduction, axes_for, reduced
from mekrr_scale.store.shard import StructureRecord, records_of
from mekrr_scale.store.sidecars import Sidecar, sidecars_in
from mekrr_scale.store.writer import ShardWriter
from mekrr_scale.structures import common_electrons


@dataclass(frozen=True)
class _Kept:
    """What earlier manifests say that sidecars do not."""

    excluded: dict[str, set[int]] = field(default_factory=dict)
    on_duplicate: OnDuplicate = "error"
    incomplete: Mapping[str, Lack] = field(default_factory=dict)


def finalize(
    folder: Path | str, on_duplicate: OnDuplicate | None = None, allow_incomplete: bool = False
) -> FeatureStore:
    """Merge the sidecars of a folder into its manifest; what no sidecar names does not exist.

    Shards are listed in the order of their input. A geometry counts once: copies are left out, and so are labels that
    the same source has corrected since; what was left out is in ``remarks`` of the store. Temporary files
    of writers that are no longer there are removed.

    Args:
        on_duplicate: where labels of a geometry differ between sources: ``error``, take the ``newest``, or ``keep``
            all; by default what an earlier ``finalize`` of the folder or the parts of its extraction were told, where
            that made a difference, else ``error``.
        allow_incomplete: make a store though parts of an extraction are not done; it says so ever after.

    Raises:
        StoreError: no shards, shards of different kinds, parts that are not done, labels that differ between sources.
    """
    folder = Path(folder)
    earlier = _earlier(folder)
    there = [] if earlier is None else [folder / info.path for info in earlier.shards if (folder / info.path).exists()]
    sidecars = sorted({*sidecars_in(folder), *(path.with_name(path.name + SIDECAR) for path in there)})
    if not sidecars:
        raise StoreError(f"{folder} holds no finished shard; run `mekrr-scale extract` first")
    listed = [_sidecar(path, earlier) for path in sidecars]
    parts = parts_in(folder)
    lacking = missing(parts)
    if lacking and not allow_incomplete:
        said = "; ".join(lack.said for lack in lacking.values())
        raise StoreError(
            f"{folder} is not complete: {said}. Run the same `mekrr-scale extract` again "
            f"for these, or take what is there: `mekrr-scale store finalize {folder} --allow-incomplete`"
        )
    known = {part.version for part in parts}
    before = {} if earlier is None else {v: lack for v, lack in earlier.incomplete.items() if v not in known}
    kept = _Kept(on_duplicate=on_duplicate or _told(folder, earlier, parts), incomplete={**before, **lacking})
    return _published(folder, listed, kept, f"mekrr-scale store finalize {folder} --on-duplicate newest")


def _told(folder: Path, earlier: FeatureStore | None, parts: Sequence[Part]) -> OnDuplicate:
    """What was said last about labels that differ: for the manifest, or for a part of an extraction."""
    said = [(part.time, part.on_duplicate) for part in parts]
    if earlier is not None:
        said.append(((folder / MANIFEST).stat().st_mtime_ns, earlier.on_duplicate))
    return max((each for each in said if each[1] != "error"), default=(0, "error"))[1]


def has_rivals(folder: Path | str, part: Part) -> bool:
    """Whether a folder holds, or may hold, shards of another version of what a part extracts."""
    earlier = _earlier(Path(folder))
    others = any(other.version != part.version for other in parts_in(Path(folder)))
    return others or (earlier is not None and bool(earlier.n_excluded))


def merge(sources: Sequence[Path | str], target: Path | str, on_duplicate: OnDuplicate = "error") -> FeatureStore:
    """Join finished stores of the same kind in a new folder; shards are linked where possible.

    A geometry counts once, as in ``finalize``; what the stores leave out stays left out. A merge that was killed goes
    on when it is given again, also where all that was missing was its end.

    Args:
        on_duplicate: where labels of a geometry differ between sources: ``error``, take the ``newest``, or ``keep``
            all.

    Raises:
        StoreError: stores of different kinds or with different energies, labels that differ, a folder that holds
            something else.
    """
    stores = [FeatureStore(Path(source), level="size") for source in sources]
    if not stores:
        raise StoreError("there is nothing to merge; name at least one store")
    for store in stores:
        stores[0].header.require(store.header, str(store.path))
    energy = common_energy(stores)
    infos = {info.path: info for store in stores for info in store.shards}
    target = _new_folder(target, lambda item: item.info.path in infos)
    _require_same(target, infos.keys() if _finished(target) else None)
    if (axes := stores[0].compression) is not None:
        publish_axes(target, axes, {"like": axes.hash})
    excluded: dict[str, set[int]] = {}
    for store in stores:
        for info in store.shards:
            _sidecar(store.path / f"{info.path}{SIDECAR}", store)  # a damaged one must not be spread
            excluded[info.path] = excluded.get(info.path, set()) | set(info.excluded)
            for name in (info.path, info.path + SIDECAR):
                _linked(store.path / name, target / name)
    define_energy(target, energy)
    listed = [Sidecar.read(target / f"{name}{SIDECAR}") for name in sorted(infos)]
    incomplete = _joined([store.incomplete for store in {store.id: store for store in stores}.values()])
    command = f"mekrr-scale store merge {' '.join(map(str, sources))} -o {target} --on-duplicate newest"
    return _published(target, listed, _Kept(excluded, on_duplicate, incomplete), command)


def repack(
    source: Path | str,
    target: Path | str,
    shard_bytes: int = 1024**3,
    keep: Callable[[StructureRecord], bool] = lambda record: True,
    reduction: Reduction | None = None,
    tangent_dtype: Literal["same", "float16"] = "same",
    columns: Columns | None = None,
) -> FeatureStore:
    """Write a store anew with shards of another size, leaving out structures if asked to, and those that do not count.

    Args:
        keep: which structures go into the new store.
        reduction: compress features to coordinates along principal axes, which all structures of the store that count
            decide.
        tangent_dtype: ``float16`` halves tangents that are in float32; what is float16 stays so.
        columns: take some of the numbers of each feature vector, as features of another backbone; not with a reduction.

    Raises:
        ConfigError: columns that features do not have, or of a reduction.
        StoreError: a damaged source, nothing left, a folder that holds something else, or a store that is compressed
            already.
    """
    if reduction is not None and columns is not None:
        raise ConfigError("columns of compressed features are asked for; take the columns first, and compress these")
    store = FeatureStore(Path(source))
    name = f"repack {store.id[:16]}"
    folder = _new_folder(target, lambda item: item.info.input == name)
    axes = axes_for(store, folder, reduction)
    header = _header_of(store, axes, tangent_dtype)
    writer = ShardWriter(folder, header if columns is None else columns.header(header))
    finished = _finished(writer.folder)  # by the same call, whose end a kill may have cut off; else it is refused
    pending: list[StructureRecord] = []
    names: set[str] = set()
    size = 0

    def flush() -> None:
        nonlocal pending, size
        key = xxhash.xxh3_128()
        for record in pending:
            key.update(record.id.to_bytes(8, "little"))
        names.add(shard := writer.name(key.hexdigest()))
        if finished and not (writer.folder / shard).exists():
            raise _taken(writer.folder)
        if not writer.published(key.hexdigest()):
            writer.write(pending, name, key.hexdigest(), count - len(pending), count)
        pending, size = [], 0

    count = 0
    for found in filter(keep, _records(store)):
        index = count if found.geometry is None else found.index  # in its source, where that is known
        record = replace(found if reduction is None or axes is None else reduced(found, axes), index=index)
        record = record if columns is None else columns.of(record)
        pending.append(record)
        count += 1
        size += record.features.nbytes + (0 if record.tangents is None else record.tangents.features.nbytes)
        if size >= shard_bytes:
            flush()
    if pending:
        flush()
    if not count:
        raise StoreError("no structure is left to write; loosen the filter")
    _require_same(writer.folder, names if finished else None)
    define_energy(writer.folder, energy_definition(store.path))
    listed = [Sidecar.read(path) for path in sidecars_in(writer.folder)]
    kept = _Kept(on_duplicate="keep", incomplete=store.incomplete)  # the source has decided already
    return _published(writer.folder, listed, kept, f"mekrr-scale store repack {source} -o {target}")


def _header_of(store: FeatureStore, axes: Compression | None, tangent_dtype: Literal["same", "float16"]) -> StoreHeader:
    """What a store that is written anew says of itself."""
    header = store.header
    directions = header.directions
    require_known("there is no dtype of repacked tangents", tangent_dtype, ("same", "float16"))
    if directions and tangent_dtype == "float16":
        directions = {**directions, "dtype": "float16"}
    if axes is None:
        return replace(header, directions=directions)
    return replace(header, directions=directions, dim=axes.dim, compression=axes.document)


def _published(folder: Path, listed: Sequence[Sidecar], kept: _Kept, command: str) -> FeatureStore:
    """The manifest of shards, without what does not count.

    Args:
        command: what settles conflicts.
    """
    common = common_electrons([item.header.electrons for item in listed])
    header = replace(listed[0].header, electrons=common)
    for item in listed:
        header.require(item.header, str(item.path))
        if not (item.folder / item.info.path).exists():
            raise StoreError(f"shard {item.folder / item.info.path} is missing; {again(item.folder)}")
    decision = decide(listed, kept.on_duplicate, kept.excluded)
    if decision.conflict and kept.on_duplicate == "error":
        raise StoreError(f"{decision.conflict}. Say which are right, e.g. `{command}` (or keep: all count)")
    shards = [counted(item, decision.excluded.get(item.info.path, ())) for item in listed]
    shards.sort(key=lambda info: (info.input, info.start, info.path))
    counting = [info for info in shards if info.structures]
    extras = _extras(shards, decision, header, kept)
    text = sealed({**document(header), **extras, "shards": [info.to_dict() for info in counting]})
    try:
        publish_text(folder / MANIFEST, text)
        sweep(folder, own=True)
    except OSError as error:
        raise StoreError(f"cannot write {folder / MANIFEST}: {error}; correct the permissions or free space") from error
    remarks = [*decision.remarks, *(f"the store is not complete: {lack.said}" for lack in kept.incomplete.values())]
    return FeatureStore(folder, level="size", remarks=tuple(remarks))


def _extras(shards: Sequence[ShardInfo], decision: Decision, header: StoreHeader, kept: _Kept) -> dict[str, object]:
    """What only the manifest of a store has that is not plain."""
    partly = any(info.excluded for info in shards if info.structures)
    found = {
        "superseded": {info.path: len(info.excluded) for info in shards if not info.structures},
        "on_duplicate": kept.on_duplicate if decision.mattered else None,
        "incomplete": {version: lack.to_dict() for version, lack in kept.incomplete.items()},
        "required_features": [*header.required_features, EXCLUSIONS] if partly else None,
    }
    return {name: value for name, value in found.items() if value}


def _joined(each: Sequence[Mapping[str, Lack]]) -> dict[str, Lack]:
    """What several stores lack together: parts that lie in one of them need not lie in the others."""
    found: dict[str, Lack | None] = {}
    for lacks in each:
        for version, lack in lacks.items():
            before = found.get(version, lack)
            found[version] = None if before is None else before.joined(lack)
    return {version: lack for version, lack in found.items() if lack is not None}


def _earlier(folder: Path) -> FeatureStore | None:
    """The store as an earlier manifest has it, if that can be read."""
    try:
        return FeatureStore(folder, level="size", checked=False)
    except StoreError:
        return None


def _sidecar(path: Path, store: FeatureStore | None) -> Sidecar:
    """Of a shard; a damaged one is written anew where the manifest says what stood there.

    Raises:
        StoreError: damaged, and nobody knows what it said.
    """
    try:
        return Sidecar.read(path)
    except StoreError:
        info = None if store is None else next((i for i in store.shards if f"{i.path}{SIDECAR}" == path.name), None)
        if store is None or info is None or info.excluded:
            raise
        if file_hash(store.path / info.path, "xxh3_128") != info.xxh3_128:
            raise
        made = Sidecar(path.parent, store.header, info)
        made.publish()
        return made


def _records(store: FeatureStore) -> Iterator[StructureRecord]:
    """The structures of a store that count, with what their sidecars know."""
    for info in store.shards:
        origins = _sidecar(store.path / f"{info.path}{SIDECAR}", store).origins
        each = [] if origins is None else origins.each()
        for at, record in enumerate(records_of(store.open(info).arrays())):
            if at in info.excluded:
                continue
            if origins is None:
                yield record
            else:
                yield replace(record, geometry=int(origins.geometries[at]), origin=each[at])


def _linked(source: Path, target: Path) -> None:
    """The same file at another place, or a copy that is there as a whole or not at all."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:  # another file system
        temporary = temporary_path(target.parent, "")
        shutil.copy2(source, temporary)
        os.replace(temporary, target)


def _new_folder(path: Path | str, own: Callable[[Sidecar], bool]) -> Path:
    """A folder for a new store.

    Args:
        own: whether a shard that lies there already, of a job that was cut off, is one of those to come.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot create the store {folder}: {error}; choose a folder you may write to") from error
    sidecars = sidecars_in(folder)
    if _finished(folder) and not sidecars:
        raise _taken(folder)
    for sidecar in sidecars:
        if not own(Sidecar.read(sidecar)):
            if _finished(folder):
                raise _taken(folder)
            raise StoreError(f"{folder} holds shards of something else ({sidecar.name}); name a new folder")
    return folder


def _finished(folder: Path) -> bool:
    return (folder / MANIFEST).exists()


def _require_same(folder: Path, shards: Collection[str] | None) -> None:
    """Refuse a finished store that has other shards than those to come; None: it is not finished."""
    if shards is not None and {path.name.removesuffix(SIDECAR) for path in sidecars_in(folder)} != set(shards):
        raise _taken(folder)


def _taken(folder: Path) -> StoreError:
    return StoreError(f"{folder} is a finished store already; name a new folder")
