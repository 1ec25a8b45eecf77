"""The benchmark of compressed stores, on toy features."""

from dataclasses import replace

import pytest

from benchmarks import compression
from mekrr_scale.pipeline import KernelPlan, RowPlan
from mekrr_scale.store import open_store


def test_what_compression_costs(store, small_plan, tmp_path):
    kernel = KernelPlan(length_scales="2x", standardize="centre-per-species")
    plan = replace(small_plan, kernel=kernel, rows=RowPlan(weights={"force": 1e-2}))
    rows = compression.compared("toy", open_store(store), tmp_path / "parts", (12, 4), plan)
    by_name = {row[1]: row for row in rows}
    assert list(by_name)[:5] == ["float32", "float16", "12", "4", "8, float16"]
    sizes = {name: row[2:4] for name, row in by_name.items()}
    assert sizes["float32"] == [16, 128]  # features of the toy store are float64
    assert (sizes["float16"], sizes["12"], sizes["8, float16"]) == ([16, 36], [12, 96], [8, 20])
    errors = {name: [float(str(cell).split()[0]) for cell in row[4:8]] for name, row in by_name.items()}
    assert errors["float16"] == pytest.approx(errors["float32"], rel=0.02)
    assert errors["residual 0.0001"] != errors["float32"]
    assert all("(+0.0)" in str(cell) for cell in by_name["float32"][4:8])
