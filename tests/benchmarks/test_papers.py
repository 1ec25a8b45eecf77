"""The paper experiments run from raw data to tables, small and on the data in the repository."""

import os

import pytest


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
        (
            "opponents",
            ("ridge regression, 7net-0", "CHGNet, frozen up to conv1", "the best opponent, "),
        ),
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
