"""Whatever is written is read, bit by bit: any sizes, elements, labels, directions, precisions and cuts into shards."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mekrr_scale.arrays import RowKind
from mekrr_scale.store import FeatureStore, ShardWriter, StructureRecord, finalize, merge, repack, verify
from mekrr_scale.store.format import StoreHeader
from mekrr_scale.store.shard import RecordTangents

ENERGIES = st.one_of(st.just(float("nan")), st.floats(-1e9, 1e9))


@st.composite
def kinds(draw):
    """What a store holds: dim, precision, and whether tangents."""
    return draw(st.integers(1, 5)), draw(st.sampled_from(["float32", "float64"])), draw(st.booleans())


@st.composite
def records(draw, dim, dtype, tangents):
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = []
    for index in range(draw(st.integers(1, 7))):
        n = draw(st.integers(1, 4))
        numbers = np.array(draw(st.lists(st.sampled_from([1, 6, 8, 29, 118]), min_size=n, max_size=n)), dtype=np.int64)
        moves = None
        if tangents:
            count = draw(st.integers(0, 3))
            moves = RecordTangents(
                generator.normal(size=(count, n, dim)).astype(dtype),
                generator.choice([int(RowKind.FORCE), int(RowKind.STRESS)], count).astype(np.uint8),
                np.where(generator.random(count) < 0.3, np.nan, generator.normal(size=count)),
                generator.normal(size=count),
            )
        features = generator.normal(size=(n, dim)).astype(dtype)
        energy, prior, group = draw(ENERGIES), draw(ENERGIES), draw(st.integers(-1, 2**40))
        id = draw(st.integers(0, 2**62)) * 7 + index
        found.append(StructureRecord(numbers, features, id % 2**63, index, energy, prior, group=group, tangents=moves))
    return found


def write(folder, given, kind, cuts, order):
    dim, dtype, tangents = kind
    header = StoreHeader({"name": "x"}, dim, dtype, {"seed": 0} if tangents else {})
    writer = ShardWriter(folder, header)
    edges = sorted({0, len(given), *(cut % (len(given) + 1) for cut in cuts)})
    parts = list(zip(edges, edges[1:], strict=False))
    for begin, end in parts if order else reversed(parts):
        writer.write(given[begin:end], "in", f"{begin}", begin, end)
    return finalize(folder)


def read(store):
    """The records as the batches give them, in plain numpy."""
    found = []
    for batch in FeatureStore(store.path, tangents=True, max_atoms=5):
        for i in range(batch.n_structures):
            n = int(batch.n_atoms[i])
            bounds = (0, 0) if batch.directions is None else batch.directions.ptr[i : i + 2].tolist()
            count = bounds[1] - bounds[0]
            dim, dtype = batch.runs[0].features.shape[1], batch.runs[0].features.numpy().dtype
            numbers, features = np.zeros(n, np.int64), np.full((n, dim), np.nan, dtype)
            moves = np.full((count, n, dim), np.nan, dtype)
            for run, source in zip(batch.runs, batch.sources, strict=True):
                at = source[run.ptr[i] : run.ptr[i + 1]].numpy()
                numbers[at], features[at] = run.z, run.features[run.ptr[i] : run.ptr[i + 1]].numpy()
                if run.tangents is not None:
                    own = run.tangents.features[run.tangents.ptr[i] : run.tangents.ptr[i + 1]].numpy()
                    moves[:, at] = own.reshape(count, len(at), dim)
            labels = ([], [], [])
            if batch.directions is not None:
                labels = [getattr(batch.directions, k)[slice(*bounds)].numpy() for k in ("kind", "label", "prior")]
            values = [float(batch.energy[i]), float(batch.prior[i]), int(batch.ids[i]), int(batch.groups[i])]
            found.append([numbers, features, np.array(values[:2]), np.array(values[2:]), moves, *map(np.array, labels)])
    return found


def expected(record, kind):
    dim, dtype, _ = kind
    t = record.tangents
    moves = np.zeros((0, len(record.numbers), dim), dtype) if t is None else t.features
    labels = ([], [], []) if t is None else (t.kind, t.label, t.prior)
    values = np.array([record.energy, record.prior]), np.array([record.id, record.group])
    return [record.numbers, record.features, *values, moves, *map(np.array, labels)]


def same(a, b):
    pairs = [pair for x, y in zip(a, b, strict=True) for pair in zip(x, y, strict=True)]
    return all(x.shape == y.shape and np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in pairs)


@settings(max_examples=8)  # each writes and syncs a dozen files
@given(st.data())
def test_round_trips(data):
    kind = data.draw(kinds())
    given = data.draw(records(*kind))
    cuts = data.draw(st.lists(st.integers(0, 7), max_size=3))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        store = write(folder / "a", given, kind, cuts, order=True)
        assert same(read(store), [expected(record, kind) for record in given])
        assert verify(store.path).ok
        # shards that were written in another order are the same store
        assert write(folder / "b", given, kind, cuts, order=False).id == store.id
        for size in (1, 10**9):
            packed = repack(store.path, folder / f"packed-{size}", size)
            assert same(read(packed), read(store))
            assert len(packed.shards) == (len(given) if size == 1 else 1)
        kept = repack(store.path, folder / "kept", keep=lambda record: record.index == given[-1].index)
        assert same(read(kept), [expected(given[-1], kind)])
        joined = merge([store.path, kept.path], folder / "joined")
        assert same(read(joined)[: len(given)], read(store))
