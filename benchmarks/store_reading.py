"""Reading a store against a raw memory map, warm page cache; and what verifying costs."""

import numpy as np
import torch

from benchmarks.data import synthetic
from benchmarks.measuring import alike, table
from mekrr_scale.store import FeatureStore, verify

REPEATS = 5


def main(n: int = 60_000) -> None:
    store = synthetic(n, 64, 128)
    size = store.n_atoms * 128 * 4

    def read(opened: FeatureStore) -> float:
        total = 0.0
        for batch in opened:
            for run in batch.runs:
                total += float(run.features.sum())
        return total

    maps = [
        np.memmap(store.path / info.path, place.dtype, "c", place.offset, (place.rows, place.columns))
        for info in store.shards
        for place in (info.big["/atom/features"],)
    ]

    def raw() -> float:
        total = 0.0
        for data in maps:  # made once, as the store's are
            for start in range(0, len(data), 16384):
                total += float(torch.from_numpy(data[start : start + 16384]).sum())
        return total

    raw()
    kept = FeatureStore(store.path)
    ways = [raw, lambda: read(kept), lambda: read(FeatureStore(store.path)), lambda: verify(store.path)]
    mapped, again, verified, full = (best for _, best in alike(ways, REPEATS))
    rows: list[list[object]] = [
        ["raw memory map", mapped, size / mapped / 1e9, "100 %"],
        ["store, blocks verified before", again, size / again / 1e9, f"{100 * mapped / again:.0f} %"],
        [
            "store, first pass (verifies each block)",
            verified,
            size / verified / 1e9,
            f"{100 * mapped / verified:.0f} %",
        ],
        ["`store verify` (every byte)", full, size / full / 1e9, f"{100 * mapped / full:.0f} %"],
    ]
    print(f"best of {REPEATS}, in turns; {size / 1e9:.2f} GB of features in {len(store.shards)} shards\n")
    table(["reader", "seconds", "GB/s", "of the raw map"], rows)
