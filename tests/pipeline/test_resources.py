"""Plans of fits, and the tiers that rows are kept in."""

import gc
import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from mekrr_scale.arrays import RowKind
from mekrr_scale.cli.app import app
from mekrr_scale.distributed import Group
from mekrr_scale.errors import SolverError
from mekrr_scale.files import default_scratch
from mekrr_scale.pipeline import (
    BaselinePlan,
    ExtractPlan,
    FitPlan,
    KernelPlan,
    LandmarkPlan,
    extract,
    fit,
    resources,
)
from mekrr_scale.pipeline.fitting import FitData, estimate
from mekrr_scale.progress import Silent
from mekrr_scale.regression import Execution, KeptRows, RowBlock, packed_width
from mekrr_scale.solvers import Direct, Exact, Falkon
from mekrr_scale.store import FeatureWriter

PLAN = FitPlan(
    kernel=KernelPlan(length_scales="2x"), landmarks=LandmarkPlan(count=60), baseline="composition", validation=3,
    solver=Direct((1e-6,)),
)  # fmt: skip
FALKON = Falkon((1e-6,))


def blocks(sizes, columns=5):
    generator = torch.Generator().manual_seed(0)
    found = []
    for size in sizes:
        numbers = torch.rand(5, size, generator=generator, dtype=torch.float64)
        matrix = torch.randn(size, columns, generator=generator, dtype=torch.float64)
        counts = torch.randint(0, 9, (size, 2), generator=generator).double()
        fold = torch.randint(0, 3, (size,), generator=generator)
        key = torch.randint(-(2**62), 2**62, (size,), generator=generator)
        found.append(RowBlock(RowKind.ENERGY, matrix, *numbers[:3].unbind(0), counts, numbers[3], fold, key))
    return found


@pytest.mark.parametrize("memory", [10**6, 1500, 0])
def test_rows_are_the_same_wherever_they_are_kept(tmp_path, memory):
    given = blocks([7, 1, 20, 3])
    kept = KeptRows(given, memory, tmp_path / "scratch")
    for _ in range(3):
        for found, expected in zip(kept, given, strict=True):
            for name in ("matrix", "target", "weight", "share", "counts", "scale", "fold", "key"):
                assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert kept.kept
    assert (kept.stored_bytes["scratch"] > 0) == (memory < 10**6)
    assert kept.stored_bytes["memory"] <= memory
    assert memory == 10**6 or list((tmp_path / "scratch").iterdir()) == []  # no name to be left behind
    kept.forget()
    assert not kept.kept
    with kept:
        assert len(list(kept)) == 4
    assert not kept.kept


def test_without_scratch_rows_that_do_not_fit_are_made_anew():
    given = blocks([7, 1, 20, 3])
    made = []

    class Source:
        def __iter__(self):
            for block in given:
                made.append(len(block.target))
                yield block

    kept = KeptRows(Source(), 1500)
    for _ in range(2):
        assert [len(block.target) for block in kept] == [7, 1, 20, 3]
    assert not kept.kept
    assert made == [7, 1, 20, 3] * 2
    assert len(list(KeptRows([], 0))) == 0


def test_a_full_scratch_disk_says_what_to_do(tmp_path):
    """The limit on a file's size is a disk that takes no more."""
    kept, before = KeptRows(blocks([50]), 0, tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with kept, pytest.raises(SolverError, match="--scratch"):
            list(kept)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_scratch_goes_where_the_batch_system_says(monkeypatch):
    for name in ("SLURM_TMPDIR", "JOB_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", "/a")
    assert default_scratch() == Path("/a")
    monkeypatch.setenv("SLURM_TMPDIR", "/local/7")
    assert default_scratch() == Path("/local/7")


def test_plans_follow_the_sizes(store):
    direct, falkon = resources(store, PLAN), resources(store, replace(PLAN, solver=FALKON))
    assert direct.rows == falkon.rows == 24 + 24 * 4 + 6 * 6
    assert direct.columns == 60
    assert direct.kept == falkon.kept == "memory"
    names = [stage.name for stage in falkon.stages]
    assert names[:4] == ["statistics and landmarks", "whitening of K_ZZ", "first pass", "preconditioner"]
    assert falkon.seconds_iteration > 0 == direct.seconds_iteration
    assert [stage.name for stage in direct.stages[-3:]] == ["held-out energies", "uncertainty", "outliers"]
    assert direct.comparing == pytest.approx(sum(stage.seconds for stage in direct.stages[:-3]))
    assert direct.peak_bytes > direct.base_bytes
    larger = resources(store, replace(PLAN, landmarks=LandmarkPlan(count=200)))
    assert larger.peak_bytes - larger.base_bytes > direct.peak_bytes - direct.base_bytes
    small = replace(PLAN, solver=FALKON, execution=Execution(memory=1000, scratch=None))
    assert resources(store, small).kept == "nothing"
    filed = replace(small, execution=Execution(memory=1000, scratch=Path("/tmp")))
    assert "scratch file in /tmp" in resources(store, filed).kept
    several = replace(PLAN, kernel=KernelPlan(length_scales="1x,2x"))
    assert resources(store, several).passes == direct.passes + 1


@pytest.mark.parametrize(
    ("changed", "columns", "stage"),
    [
        ({"landmarks": LandmarkPlan("structures", count=10)}, 10, "pass over the rows"),
        ({"landmarks": LandmarkPlan("structures", count=0)}, 24, "pass over the rows"),
        ({"solver": Exact((1e-6,))}, 24, "rows of the kernel matrix"),
    ],
)
def test_whole_structures_are_planned_by_their_number_and_their_atoms(store, changed, columns, stage):
    """A structure is one column, whatever its size; its atoms are what is held and compared."""
    plan = replace(PLAN, **changed)
    found, data = resources(store, plan), FitData.open(store, plan)
    assert found.columns == columns
    assert stage in [each.name for each in found.stages]
    assert fit(store, plan).solution.rank <= columns
    if columns == 24:
        assert found.stages[0].bytes > 3.0 * data.n_atoms * (data.stores[0].header.dim + 2) * 8


def test_landmarks_of_several_stores_are_planned(toy_structures, spec, tmp_path):
    """As of one store of all; the first store's atoms alone are fewer than the landmarks, and lack an element."""
    alike = [atoms for atoms in toy_structures if 8 not in atoms.numbers]
    others = [atoms for atoms in toy_structures if 8 in atoms.numbers]
    parts = [alike[:1], alike[1:], others]
    stores = [extract(part, tmp_path / str(i), ExtractPlan(spec)).store for i, part in enumerate(parts)]
    whole = extract([*alike, *others], tmp_path / "whole", ExtractPlan(spec)).store
    plan = replace(PLAN, landmarks=LandmarkPlan(count=100))
    assert stores[0].n_atoms < 10
    assert resources(stores, plan).columns == resources(whole, plan).columns == 100
    assert fit(stores, plan).model.landmarks.n_sets == 100


def test_every_mixing_is_planned(store):
    """Blocks of elements that are apart, one block of those that are not; both share a pass where there is room."""
    found = {}
    for alphas in ((1.0,), (0.5,), (1.0, 0.5), (1.0, 0.05)):
        plan = replace(PLAN, kernel=KernelPlan(length_scales="2x", alphas=alphas))
        stages = resources(store, plan).stages
        found[alphas] = {stage.name: stage for stage in stages}
    notes = [stages["whitening of K_ZZ"].note for stages in found.values()]
    assert notes[0].startswith("3 blocks")
    assert notes[1:] == ["1 block of at most 60"] * 3
    passes = {alphas: stages["pass over the rows"].passes for alphas, stages in found.items()}
    assert passes == {(1.0,): 1, (0.5,): 1, (1.0, 0.5): 2, (1.0, 0.05): 2}
    held = {alphas: stages["pass over the rows"].bytes for alphas, stages in found.items()}
    assert held[1.0, 0.5] > 1.5 * held[1.0, 0.05]  # sums of twice the columns


def test_a_fit_that_learns_its_mixing_is_planned_as_one_of_its_alphas(store):
    found = [resources(store, replace(PLAN, kernel=KernelPlan(length_scales="2x", mixing=m))) for m in (None, "learn")]
    assert found[0].passes == found[1].passes
    assert found[0].rows == found[1].rows


def test_more_ranks_have_less_to_do(store):
    alone, four = (estimate(replace(FitData.open(store, PLAN), group=Group(0, size))) for size in (1, 4))
    assert four.ranks == 4
    assert alone.rows / 4 <= four.rows < alone.rows


@pytest.mark.parametrize("solver", [Direct((1e-6,)), FALKON, Exact((1e-6,))])
def test_what_a_fit_leaves_out_is_not_planned(toy_structures, spec, tmp_path, solver):
    """An element of isolated atoms alone, and one of frames of weight 0, of which the fit knows nothing."""
    helium, argon = Atoms("He"), Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]], info={"config_weight": 0.0})
    for atoms in (helium, argon):
        atoms.calc = SinglePointCalculator(atoms, energy=-78.0)
    store = extract([helium, argon, *toy_structures], tmp_path / "s", ExtractPlan(spec)).store
    plan = replace(PLAN, landmarks=LandmarkPlan(count=0 if isinstance(solver, Exact) else 20), solver=solver)
    assert resources(store, plan).columns > 0
    assert fit(store, plan).model.baseline.species == (1, 6, 8)


def test_dry_run_runs_nothing(store, tmp_path):
    output = tmp_path / "model.mekrr"
    done = CliRunner().invoke(app, ["fit", "--store", str(store), "-o", str(output), "--dry-run", "--landmarks", "60"])
    assert done.exit_code == 0, done.output
    assert re.search(r"156 rows of 60 columns", done.output)
    assert "pass over the rows" in done.output
    assert os.listdir(tmp_path) == []


_MEASURED = """
import sys, threading, time
import numpy as np
import torch

torch.set_num_threads(1)
from mekrr_scale.pipeline import BaselinePlan, FitPlan, Validation, fit, resources
from mekrr_scale.solvers import Direct

def now():
    with open("/proc/self/status") as file:
        return next(float(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))

def watch():
    while True:
        most[0] = max(most[0], now())
        time.sleep(1e-3)

store, landmarks = sys.argv[1], int(sys.argv[2])
plan = FitPlan(kernel={"length_scales": "2x"}, landmarks=landmarks, baseline="composition", solver=Direct((1e-6, 1e-3)),
               validation=Validation(3, uncertainty=False))
small = FitPlan(kernel={"length_scales": "2x"}, landmarks=10, baseline="composition", solver=Direct((1e-6, 1e-3)),
                validation=Validation(3, uncertainty=False))
fit(store, small)  # what libraries take at their first use
planned = resources(store, plan)
most = [now()]
threading.Thread(target=watch, daemon=True).start()
fit(store, plan)
print(planned.peak_bytes, planned.base_bytes, most[0])
"""


def test_memory_that_was_planned_holds(tmp_path):
    """The anonymous memory that a fit takes at most, in a process of its own, is that of the plan within 30 %."""
    generator = np.random.default_rng(0)
    with FeatureWriter(tmp_path / "s", "random 1.0", dim=32) as writer:
        for _ in range(4000):
            features = generator.normal(size=(4, 32)).astype(np.float32)
            writer.add(np.array([1, 1, 6, 8]), features, float(np.sin(features).sum()))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MALLOC_TRIM_THRESHOLD_": "0",
        "MALLOC_MMAP_THRESHOLD_": "1000000",
    }
    command = [sys.executable, "-c", _MEASURED, str(tmp_path / "s"), "800"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    peak, base, measured = map(float, done.stdout.split())
    assert peak - base > 50e6  # matrices, and not the noise of the interpreter
    assert measured - base == pytest.approx(peak - base, rel=0.3), (peak - base, measured - base)


class Watched(Silent):
    """Counts candidates' rows that are held when one of them is told of, less what other tests left behind."""

    def __init__(self):
        self.held = []
        self._before = _rows_alive()

    def note(self, text):
        if "cross-validated RMSE" in text:
            live = [each for each in _rows_alive() if not any(each is other for other in self._before)]
            self.held.append(sum(each.stored_bytes["memory"] for each in live))


def _rows_alive():
    return [each for each in gc.get_objects() if type(each) is KeptRows and each.kept]


@pytest.mark.parametrize(("room", "most"), [(100.0, 2), (1.5, 1)])
def test_rows_of_candidates_that_do_not_lead_are_given_back(store, room, most):
    """Those of the leader stay where as many have room beside them: ``memory`` holds for both together."""
    baseline = BaselinePlan(kinds=("composition", "isolated"), isolated={"H": -1.0, "C": -1.5, "O": -1.5})
    plan = replace(PLAN, baseline=baseline, kernel=KernelPlan(length_scales="2x,3x,4x"))
    rows, planned = 8 * 156 * packed_width(60, 3), resources(store, plan).row_bytes
    given = replace(plan, execution=Execution(memory=int(room * rows), scratch=None))
    progress = Watched()
    found = fit(store, given, progress)
    assert len(progress.held) == 6
    assert max(progress.held) == most * rows <= room * rows
    assert found.model.validation == fit(store, plan).model.validation
    passing = {stage.name: stage.bytes for stage in resources(store, given).stages}["pass over the rows"]
    alone = replace(given, kernel=KernelPlan(length_scales="2x"), baseline="composition")
    one = {stage.name: stage.bytes for stage in resources(store, alone).stages}["pass over the rows"]
    assert passing - one == pytest.approx((most - 1) * planned)


def test_a_small_fit_is_planned_small(store):
    """A fit of this size takes little beside what the process has; the plan must not claim gigabytes."""
    planned = resources(store, PLAN)
    assert planned.peak_bytes - planned.base_bytes < 50e6
    assert fit(store, PLAN).solution.rank == planned.columns
