"""NVE with fitted models: drift, memory, and the time of steps from first to last."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk

from benchmarks import kept
from benchmarks.bpa_forces import PLAN, sized, tangents, test_frames
from benchmarks.data import extracted, structures
from benchmarks.measuring import anonymous_mb, table
from mekrr_scale.models import MekrrCalculator, Model
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, fit
from mekrr_scale.simulation import Bounds, MdPlan, relax, run_md
from mekrr_scale.structures import read_structures

PARTS = 5


@dataclass(frozen=True)
class Case:
    """A run from rest, with velocities drawn at ``start_at`` K, of which springs take about half."""

    name: str
    build: Callable[[], tuple[Model, Atoms]]
    timestep: float  # fs
    start_at: float  # K
    length: float  # ps


def silicon() -> tuple[Model, Atoms]:
    """CHGNet features of mlearn's Si, energies and forces; a cell of 16 atoms."""
    store, _ = extracted(structures("mlearn/Si_train.xyz.xz"), "mlearn-Si-forces", ExtractPlan(derivatives=8))
    plan = FitPlan(kernel=KernelPlan(length_scales="4x"), landmarks=LandmarkPlan(count=1000), baseline="composition")
    return fit(store, plan).model, bulk("Si", "diamond", 5.47, cubic=True).repeat((2, 1, 1))


def bpa() -> tuple[Model, Atoms]:
    """SevenNet-0 features of 250 x 16 directions, M = 2000."""
    model = fit(tangents(250, 16), sized(PLAN, 2000)).model
    return model, next(read_structures(test_frames()))


CASES = (
    Case("Si, chgnet, energies and 8 directions", silicon, 1.0, 600.0, 20.0),
    Case("3BPA, sevennet, 250 x 16, M = 2000", bpa, 1.0, 600.0, 11.0),
)


def run(case: Case) -> list[object]:
    """A row of the table: the settings are those of the run itself."""
    model, atoms = case.build()
    calculator = MekrrCalculator(model)
    start = relax(atoms, calculator, force=0.02, steps=500)
    path = _fresh(case.name)
    steps = round(1000 * case.length / case.timestep)
    plan = MdPlan(
        "nve", steps, case.timestep, case.start_at, interval=max(1, steps // 200), checkpoint=1000, bounds=Bounds(30.0)
    )
    seconds, memory = [], []
    for part in range(1, PARTS + 1):
        begun = time.perf_counter()
        run_md(start, calculator, path, replace(plan, steps=part * steps // PARTS))
        seconds.append(1e3 * (time.perf_counter() - begun) / (steps // PARTS))
        memory.append(anonymous_mb())
    written = list(read_structures(path))
    energies = [1e3 * frame.info["total_energy"] / len(frame) for frame in written]
    temperatures = [frame.info["temperature_K"] for frame in written]
    times = 1e-3 * plan.interval * case.timestep * np.arange(len(written))
    return [
        case.name, len(start), f"{case.timestep:g}", f"{times[-1]:g}",
        f"{np.mean(temperatures[len(written) // 10 :]):.0f} ({case.start_at:g})", f"{drift(times, energies):.2g}",
        " ".join(f"{value:.1f}" for value in seconds), " ".join(f"{value:.0f}" for value in memory),
    ]  # fmt: skip


def drift(times: np.ndarray, energies: list[float]) -> float:
    """Slope of a straight line through the total energies (meV/atom) over times (ps), per 10 ps."""
    return 10 * float(np.polyfit(times, energies, 1)[0])


def _fresh(name: str) -> Path:
    """A file that no earlier run has begun."""
    path = kept.folder() / f"nve-{name.partition(',')[0]}.xyz"
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob(f"{path.stem}*"):
        old.unlink()
    return path


def main(cases: tuple[Case, ...] = CASES) -> None:
    rows = [run(case) for case in cases]
    print("\nper fifth of the run: ms of a step, MB of anonymous memory at its end; drift in meV/atom per 10 ps\n")
    header = ["model", "atoms", "time step, fs", "length, ps", "mean T, K", "drift", "ms per step", "memory, MB"]
    table(header, rows)
