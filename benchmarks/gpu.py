"""One GPU: rate of the rows against the card's own matrix products, an energy fit of 10^6 structures, and the way of a user
(extraction, fit with forces, forces of the model) on the processor and on the GPU.

``python -m benchmarks gpu`` takes the GPU where torch finds one, and then a few minutes; on a CPU everything is small.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from ase.build import bulk

from benchmarks.measuring import table
from mekrr_scale.arrays import DirectionLabels, FeatureBatch, Landmarks, RowKind, SpeciesRun, Tangents, bounds
from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, Transform
from mekrr_scale.models import Baseline, Potential
from mekrr_scale.pipeline import ExtractPlan, FitPlan, Validation, evaluate, extract
from mekrr_scale.pipeline import fit as fit_store
from mekrr_scale.regression import Execution, Problem, Run, Source
from mekrr_scale.solvers import Falkon

SPECIES = (6, 8, 29, 78)


@dataclass(frozen=True)
class Synthetic:
    """Structures of as many atoms of each of four species around a few environments, made on the device when asked for."""

    n: int
    atoms: int
    dim: int
    device: str
    batch: int = 2048

    def __iter__(self) -> Iterator[FeatureBatch]:
        for first in range(0, self.n, self.batch):
            yield self.make(first, min(self.batch, self.n - first))

    def make(self, seed: int, count: int, directions: int = 0) -> FeatureBatch:
        generator = torch.Generator(self.device).manual_seed(seed)
        each = self.atoms // len(SPECIES)
        ptr = torch.arange(count + 1) * each
        runs, energy = [], torch.zeros(count, dtype=torch.float64)
        for place, z in enumerate(SPECIES):
            centres = torch.randn(8, self.dim, generator=torch.Generator().manual_seed(place)).to(self.device)
            chosen = torch.randint(0, 8, (count * each,), generator=generator, device=self.device)
            noise = torch.randn(count * each, self.dim, generator=generator, device=self.device)
            features = centres[chosen] + 0.3 * noise
            energy += features[:, :4].sum(1).cos().double().view(count, each).sum(1).cpu()
            moved = None
            if directions:
                rows = torch.randn(count * each * directions, self.dim, generator=generator, device=self.device)
                moved = Tangents(rows, ptr * directions)
            runs.append(SpeciesRun(z, features, ptr, moved))
        labels = None
        if directions:
            unknown = torch.zeros(count * directions, dtype=torch.float64)
            kind = torch.full((count * directions,), int(RowKind.FORCE))
            labels = DirectionLabels(bounds(torch.full((count,), directions)), kind, unknown, unknown)
        whole = torch.full((count,), each * len(SPECIES))
        nan, none = torch.full((count,), torch.nan, dtype=torch.float64), torch.full((count,), -1)
        ids = torch.arange(seed, seed + count) * 2654435761 % 2**31
        return FeatureBatch(
            tuple(runs), whole, energy, nan, ids, none, (torch.arange(count * each),) * len(SPECIES), labels
        )

    def landmarks(self, count: int) -> Landmarks:
        runs = self.make(10**9, max(1, count // self.atoms + 1)).runs
        features = [run.features[: count // len(SPECIES)] for run in runs]
        species = torch.cat([torch.full((len(f),), run.z) for f, run in zip(features, runs, strict=True)])
        return Landmarks(torch.cat(features), species, torch.arange(len(species)), len(species))


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads, small sizes"
    print(f"{name}, torch {torch.__version__}\n")
    rates(device)
    fit(device, *((10**6, 8192) if device == "cuda" else (4000, 512)))
    way(("cpu", "cuda") if device == "cuda" else ("cpu",))


def rates(device: str) -> None:
    count, columns = (4096, 8192) if device == "cuda" else (256, 1024)
    rows: list[list[object]] = []
    for dim in (64, 128, 256):
        data = Synthetic(count, 64, dim, device)
        kernel = SetKernel(Gaussian(dim**0.5), SpeciesMixing(0.0), "sum", Transform.identity(dim))
        landmarks = data.landmarks(columns)
        for dtype in (torch.float64, torch.float32):
            batch = data.make(0, count)
            a = torch.randn(count * 64, dim, dtype=dtype, device=device)
            b = torch.randn(dim, columns, dtype=dtype, device=device)
            piece = min(len(a), 2**26 // columns)
            bare = _seconds(lambda a=a, b=b, piece=piece: [part @ b for part in a.split(piece)], device)
            made = _seconds(lambda k=kernel, b=batch, z=landmarks, t=dtype: k.rows(b, z, t), device)
            rate = 2.0 * count * 64 * dim * columns / bare / 1e12
            rows.append([dim, str(dtype)[6:], "energy", rate, 1e3 * bare, 1e3 * made, f"{100 * bare / made:.0f} %"])
        moved = data.make(0, count // 16, 8)
        a = torch.randn(count // 16 * 64 * 8, dim, device=device)
        b = torch.randn(dim, columns, device=device)
        bare = _seconds(lambda a=a, b=b: [part @ b for part in a.split(max(1, 2**26 // columns))], device)
        made = _seconds(lambda k=kernel, b=moved, z=landmarks: k.derivative_rows(b, z), device)
        rate = 2.0 * len(a) * dim * columns / bare / 1e12
        rows.append([dim, "float32", "derivative", rate, 1e3 * bare, 1e3 * made, f"{100 * bare / made:.0f} %"])
    print(
        f"{count} structures of 64 atoms, {columns} landmarks; eight directions each for derivative rows (a 16th of them)\n"
    )
    table(
        ["d", "elements", "rows", "matrix product, TFLOP/s", "matrix product, ms", "rows, ms", "rate of the rows"], rows
    )


def fit(device: str, n: int, columns: int, dim: int = 128) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()  # of the fit, and not of the rates before it
    data = Synthetic(n, 64, dim, device)
    kernel = SetKernel(Gaussian(dim**0.5), SpeciesMixing(1.0), "sum", Transform.identity(dim))
    landmarks = data.landmarks(columns)
    baseline = Baseline(SPECIES, torch.zeros(len(SPECIES), dtype=torch.float64), prior=False, fitted=False)
    problem = Problem(kernel, landmarks, baseline)
    start = time.perf_counter()
    problem.whitening()  # for its time; the solver whitens anew
    whitened = time.perf_counter()
    solver = Falkon((1e-6,), rtol=1e-6, max_steps=100, subset=0.1)
    run = Run(Execution(device, memory="64G", scratch=None))
    solution = solver.solve(problem, Source(data), run)
    seconds = time.perf_counter() - whitened
    effort = solution.effort
    held = data.make(2 * 10**9, 1000)
    error = (kernel.rows(held, landmarks) @ solution.value[:, 0].to(device)).cpu() - held.energy
    print(f"fit of {n} structures x 64 atoms, d = {dim}, M = {columns}, features made on the device in every pass:")
    print(
        f"{seconds:.1f} s in all: whitening {whitened - start:.1f} s, first pass {effort.seconds_pass:.1f} s, ",
        end="",
    )
    print(f"{effort.iterations} iterations, {solution.result.name}, residual {effort.residuals[-1]:.1e}; ", end="")
    print(f"RMSE of 1000 other structures {1e3 * float((error / 64).square().mean().sqrt()):.2f} meV/atom")
    if device == "cuda":
        print(f"peak device memory {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")


def way(devices: tuple[str, ...], networks: tuple[str, ...] = ("sevennet", "chgnet")) -> None:
    """Formate on Cu(110), of examples/: what the README's commands do, on each device; forces of crystals of any size."""
    examples = Path(__file__).parents[1] / "examples" / "hcoo_cu110"
    rows: list[list[object]] = []
    for network in networks:
        spec = BackboneSpec.parse(network)
        for device in devices:
            with tempfile.TemporaryDirectory() as folder:
                store, model = Path(folder) / "store", Path(folder) / "model.mekrr"
                plan = ExtractPlan(spec, derivatives=8, device=device)
                if device != "cpu":  # its kernels are compiled and tuned by the first batches
                    extract(examples / "test.xyz.xz", Path(folder) / "warm", plan)
                seconds = [_once(lambda s=store, p=plan: extract(examples / "train.xyz.xz", s, p), device)]
                settings = replace(FitPlan(), execution=Execution(device), validation=Validation(uncertainty=False))
                found = []
                seconds.append(_once(lambda s=store, p=settings, f=found: f.append(fit_store(s, p)), device))
                found[0].model.save(model)
                tested = evaluate(model, examples / "test.xyz.xz", device=device).metrics()
                potential = Potential(model, device=device)
                for n in (32, 256, 2048):
                    crystal = bulk("Cu", cubic=True).repeat({32: 2, 256: 4, 2048: 8}[n])
                    crystal.rattle(0.05, seed=0)
                    seconds.append(_seconds(lambda p=potential, a=crystal: p.predict([a], stress=False), device, 2))
            errors = [tested[name] for name in ("energy_rmse", "force_rmse")]
            rows.append([network, device, *seconds[:2], *errors, *(1e3 * x for x in seconds[2:])])
    print("\nFormate on Cu(110), 8 directions a frame, default fit; energies and forces of rattled copper\n")
    table(
        [
            "network",
            "device",
            "extraction, s",
            "fit, s",
            "RMSE, meV/atom",
            "meV/A",
            *(f"{n} atoms, ms" for n in (32, 256, 2048)),
        ],
        rows,
    )


def _once(work: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _seconds(work: Callable[[], object], device: str, times: int = 4) -> float:
    best = float("inf")
    for _ in range(times):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
