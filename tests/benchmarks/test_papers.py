"""The paper experiments run from raw data to tables, small and on the data in the repository."""

import os

import pytest

from benchmarks.papers.opponents import ahead, chosen


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("elements", ("zero-shot", "scaled prior + kernel with 4 / scratch with 4", "finetuned / scratch:")),
        ("gain", ("fine-tuned / scratch:", "learned at 300 K, tested at 2422 K", "survived 2400 K, ps")),
        ("levels", ("delta kernel / PBE after shift", "harmonic frequency", "torsion of the hydroxyl group")),
        ("frozen", ("frozen up to conv3", "distilled student / teacher", "speed-up")),
        ("speed", ("exact, 8 structures", "20 landmarks", "a distilled student", "the kernel's own time grows as")),
        ("size", ("energies and forces, direct, M = 20", "exact, energies alone:", "a dense matrix of all energies")),
        ("parts", ("without shift", "the few, on the source's landmarks too", "together, mixing of elements learned")),
        ("sensitivity", ("held-out energy", "alpha 0.5: C-H", "transition state less adsorbate")),
        ("ridges", ("formate, energies and forces, 2", "another ridge")),
        ("freezing", ("formate: forces, meV/A", "energy of a cell (52 atoms)", "calculations saved")),
        (
            "design",
            ("energies of the high level", "delta kernel, least sure", "16 structures, discriminative", "survived, ps"),
        ),
        ("opponents", ("ridge regression, 7net-0", "CHGNet, frozen up to conv1", "the best opponent, ")),
        ("mekrr", ("same set", "linear kernel", "random features", "SchNet from scratch, energies")),
    ],
)
def test_quick(name, expected, tmp_path, warm):
    pytest.importorskip("chgnet")
    if name == "opponents":
        pytest.importorskip("sevenn")
    process = warm.start(
        "-m", f"benchmarks.papers.{name}", "--quick", "--figures", str(tmp_path),
        environment={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    said, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    for text in expected:
        assert text in said
    figure = {"levels": "torsion", "sensitivity": "contributions"}.get(name, name)
    if name not in {"elements", "frozen", "mekrr", "ridges"}:
        assert (tmp_path / f"papers_{figure}.png").stat().st_size > 5000


def runs(force, seconds, *chosen_by):
    """One split for each cross-validated error."""
    told = {"energy_rmse": 1.0, "force_rmse": force, "cpu_seconds": seconds}
    return [{**told, "chosen_by": value} for value in chosen_by] or [told]


def test_a_kernel_is_chosen_by_cross_validation_at_the_time_of_all():
    one, other = runs(90.0, 10.0, 0.2, 0.1), runs(80.0, 30.0, 0.1, 0.3)
    (found,) = chosen(list(zip(one, other, strict=True))).values()
    assert [run["force_rmse"] for run in found] == [80.0, 90.0]
    assert [run["cpu_seconds"] for run in found] == [40.0, 40.0]
    assert chosen(list(zip(one, strict=True))) == {}
    assert chosen([(runs(90.0, 10.0)[0], other[0])]) == {}  # recorded before errors were


def test_a_kernel_is_held_against_all_that_takes_no_longer():
    found = {
        "kernel, quick": runs(90.0, 10.0), "kernel, slow": runs(85.0, 60.0), "ridge": runs(95.0, 5.0),
        "network": runs(80.0, 50.0), "energies alone": [{"energy_rmse": 1.0, "cpu_seconds": 1.0}],
    }  # fmt: skip
    first, second, last = ahead(found).split("; ")
    assert first == "kernel, quick (90.0 meV/A in 10 s) is ahead of all that take no longer"
    assert second == "kernel, slow (85.0 meV/A in 60 s) is behind network (80.0 in 50 s)"
    assert last == "the best opponent, network, has 80.0 in 50 s"
