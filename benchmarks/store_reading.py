"""Reading a store against a raw memory map, warm page cache; and what verifying costs."""

import numpy as np

from benchmarks.data import seconds, synthetic, table
from mekrr_scale.store import FeatureStore, verify


def main() -> None:
    store = synthetic(60_000, 64, 128)
    size = store.n_atoms * 128 * 4

    def read(opened: FeatureStore) -> float:
        total = 0.0
        for batch in opened:
            for run in batch.runs:
                total += float(run.features.sum())
        return total

    def raw() -> float:
        total = 0.0
        for info in store.shards:
            place = info.big["/atom/features"]
            data = np.memmap(store.path / info.path, place.dtype, "c", place.offset, (place.rows, place.columns))
            import torch

            for start in range(0, place.rows, 16384):
                total += float(torch.from_numpy(data[start : start + 16384]).sum())
        return total

    raw()
    first = FeatureStore(store.path)
    verified = seconds(lambda: read(first), 1)
    times = [(seconds(raw, 2), seconds(lambda: read(first), 2)) for _ in range(4)]
    mapped, again = min(t[0] for t in times), min(t[1] for t in times)
    full = seconds(lambda: verify(store.path), 2)
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
    print(f"{size / 1e9:.2f} GB of features in {len(store.shards)} shards\n")
    table(["reader", "seconds", "GB/s", "of the raw map"], rows)
