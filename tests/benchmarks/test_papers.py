"""The paper experiments run from raw data to tables, small and on the data in the repository."""

import os

import pytest


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("elements", ("zero-shot", "scaled prior + kernel with 4 / scratch with 4", "finetuned / scratch:")),
        ("levels", ("delta kernel / PBE after shift", "harmonic frequency", "torsion of the hydroxyl group")),
        ("frozen", ("frozen up to conv3", "distilled student / teacher", "speed-up")),
        ("speed", ("exact, 8 structures", "20 landmarks", "a distilled student", "the kernel's own time grows as")),
        ("size", ("energies and forces, direct, M = 20", "exact, energies alone:", "a dense matrix of all energies")),
        ("parts", ("without shift", "the few, on the source's landmarks too", "together, mixing of elements learned")),
        ("sensitivity", ("held-out energy", "alpha 0.5: C-H", "transition state less adsorbate")),
        ("freezing", ("formate: forces, meV/A", "energy of a cell (52 atoms)", "calculations saved")),
        ("mekrr", ("same set", "linear kernel", "random features", "SchNet from scratch, energies")),
    ],
)
def test_quick(name, expected, tmp_path, warm):
    pytest.importorskip("chgnet")
    process = warm.start(
        "-m", f"benchmarks.papers.{name}", "--quick", "--figures", str(tmp_path),
        environment={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    said, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    for text in expected:
        assert text in said
    figures = {
        "levels": "torsion",
        "speed": "speed",
        "size": "size",
        "parts": "parts",
        "sensitivity": "contributions",
        "freezing": "freezing",
    }
    if name in figures:
        assert (tmp_path / f"papers_{figures[name]}.png").stat().st_size > 5000
