"""20 ps of NVE at 300 K with fitted models: drift, memory, and the time of steps from first to last."""

import time
from collections.abc import Callable

from ase import Atoms
from ase.build import bulk

from benchmarks.bpa_forces import PLAN, frames, sized
from benchmarks.bpa_forces import store as bpa_store
from benchmarks.data import CACHE, anonymous_mb, structures, table
from mekrr_scale.models import MekrrCalculator, Model
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, extract, fit
from mekrr_scale.simulation import Bounds, MdPlan, relax, run_md
from mekrr_scale.structures import read_structures

PARTS = 5


def silicon() -> tuple[Model, Atoms]:
    """CHGNet features of mlearn's Si, energies and forces; a cell of 16 atoms."""
    folder = CACHE / "mlearn-Si-forces"
    extract(structures("mlearn/Si_train.xyz.xz"), folder, ExtractPlan(derivatives=8))
    plan = FitPlan(kernel=KernelPlan(length_scales="4x"), landmarks=LandmarkPlan(count=1000), baseline="composition")
    return fit(folder, plan).model, bulk("Si", "diamond", 5.47, cubic=True).repeat((2, 1, 1))


def bpa() -> tuple[Model, Atoms]:
    """SevenNet-0 features of 250 x 16 directions, M = 2000."""
    model = fit(bpa_store(250, 16)[0], sized(PLAN, 2000)).model
    return model, next(read_structures(frames(0, test=True)))


def run(name: str, build: Callable[[], tuple[Model, Atoms]], timestep: float, start_at: float) -> list[object]:
    """Start from rest with velocities drawn at ``start_at`` K, of which springs take about half."""
    model, atoms = build()
    calculator = MekrrCalculator(model)
    start = relax(atoms, calculator, force=0.02, steps=500)
    path = CACHE / f"nve-{name}.xyz"
    path.with_name(f"{path.stem}.restart.json").unlink(missing_ok=True)
    steps = int(20_000 / timestep)
    seconds, memory = [], []
    for part in range(1, PARTS + 1):
        plan = MdPlan(
            "nve", part * steps // PARTS, timestep, start_at, interval=100, checkpoint=1000, bounds=Bounds(30.0)
        )
        begun = time.perf_counter()
        run_md(start, calculator, path, plan)
        seconds.append(1e3 * (time.perf_counter() - begun) / (steps // PARTS))
        memory.append(anonymous_mb())
    written = list(read_structures(path))
    energies = [1e3 * frame.info["total_energy"] / len(frame) for frame in written]
    temperatures = [frame.info["temperature_K"] for frame in written]
    tenth = max(len(energies) // 10, 1)
    drift = (sum(energies[-tenth:]) - sum(energies[:tenth])) / tenth / 1.8  # meV/atom per 10 ps: blocks 18 ps apart
    mean = sum(temperatures[tenth:]) / len(temperatures[tenth:])
    return [
        name, len(start), f"{timestep:g}", round(mean), round(drift, 4),
        " ".join(f"{value:.1f}" for value in seconds), " ".join(f"{value:.0f}" for value in memory),
    ]  # fmt: skip


def main() -> None:
    rows = [run("Si, chgnet", silicon, 1.0, 770.0), run("3BPA, sevennet", bpa, 0.5, 400.0)]
    print("\nper fifth of the run: ms of a step, MB of anonymous memory; drift in meV/atom per 10 ps\n")
    table(["model", "atoms", "time step, fs", "mean T, K", "drift", "ms per step", "memory"], rows)
