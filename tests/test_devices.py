"""Everything that takes a device, on one that is emulated, and on a GPU where there is one: nothing is mixed, and
numbers are those of the CPU.
"""

import json
import warnings
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk

from mekrr_scale import solvers
from mekrr_scale.arrays import RowKind
from mekrr_scale.backbones import BackboneSpec, load_backbone
from mekrr_scale.distributed import Group, PanelGram, panels_of
from mekrr_scale.kernels import sums
from mekrr_scale.landmarks import WholeStructures
from mekrr_scale.models import MekrrCalculator, Model, Potential
from mekrr_scale.pipeline import (
    ExtractPlan,
    FitPlan,
    KernelPlan,
    LandmarkPlan,
    RowPlan,
    Validation,
    evaluate,
    extract,
    fit,
    predict,
    resources,
)
from mekrr_scale.regression import Execution, Run
from mekrr_scale.simulation import MdPlan, explain, relax, run_md
from mekrr_scale.solvers import SOLVERS, Direct, Exact, Falkon, preconditioners
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import read_structures
from mekrr_scale.transfer import StudentSpec, TrainPlan, distill
from tests import emulated
from tests.backbones.networks import small_sevennet
from tests.crystals import coppers
from tests.solvers.test_solver_conformance import made

try:
    import torch_sim as ts
except ImportError:
    ts = None

try:
    import ipi
except ImportError:
    ipi = None

OWN = [name for name in SOLVERS if name != "falkon-library"]  # which has devices of its own
STEPS = {"falkon": {"rtol": 1e-10, "max_steps": 6, "patience": 3, "subset": 1.0}}  # few: each is slow there
VARIANTS = [(name, {}) for name in OWN] + [("falkon", {"preconditioner": "falkon"})]


GPUS = ["emulated", *(["cuda:0"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=GPUS)
def gpu(request):
    if request.param != "emulated":
        yield request.param
        return
    with emulated.device() as name:
        yield name


@pytest.fixture
def emulated_gpu():
    with emulated.device() as name:
        yield name


def close(found, expected, rtol=1e-9):
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


def test_the_device_refuses_to_mix(emulated_gpu):
    there = torch.ones(3, device=emulated_gpu)
    assert there.device.type == emulated.NAME
    for mix in (lambda: there + torch.ones(3), lambda: torch.ones(3)[there.long()], there.numpy):
        with pytest.raises((emulated.MixedDevicesError, TypeError)):
            mix()
    assert float((there * 2.0).sum()) == 6.0


@pytest.mark.parametrize(("solver", "options"), VARIANTS)
@pytest.mark.parametrize(
    ("reduce", "alpha", "landmarks"), [("sum", 0.4, None), ("mean", 0.4, None), ("mean", 0.4, WholeStructures())]
)
def test_solvers(gpu, solver, options, reduce, alpha, landmarks):
    """With rows kept, and made anew in every pass."""
    problem, source, _ = made(solver, "gaussian", reduce, alpha)
    if landmarks is not None:
        problem = replace(problem, landmarks=landmarks.select(source.energies, problem.kernel))
    config = getattr(solvers, SOLVERS[solver])(ridges=(1e-3, 1e-1), **STEPS.get(solver, {}), **options)
    expected = config.solve(problem, source)
    phi = problem.kernel.rows(source.energies[0], problem.landmarks)
    for memory in (10**9, 0):
        found = config.solve(problem, source, Run(Execution(device=gpu, memory=memory, scratch=None)))
        for mine, other in zip([found.value, *found.fold_values], [expected.value, *expected.fold_values], strict=True):
            close(phi @ mine, phi @ other, 1e-6)
        point, known = found.path.best(), expected.path.best()
        assert point.rmse[RowKind.ENERGY] == pytest.approx(known.rmse[RowKind.ENERGY], rel=1e-6)


def test_panels(gpu, monkeypatch):
    """Falkon above the rank up to which matrices are decomposed; a rank without a panel knows the device too."""
    monkeypatch.setattr(preconditioners, "LARGEST_EIGEN", 4)
    problem, source, _ = made("falkon", "gaussian", "sum", 0.5)
    config = Falkon(ridges=(1e-3, 1e-1), **STEPS["falkon"])
    found = config.solve(problem, source, Run(Execution(device=gpu)))
    phi = problem.kernel.rows(source.energies[0], problem.landmarks)
    close(phi @ found.value, phi @ config.solve(problem, source).value, 1e-6)
    rows = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    square = rows @ rows.T + 9 * torch.eye(5)
    right = torch.ones(5, 1, dtype=torch.float64)
    factor = panels_of(square.to(gpu), width=2).copy().cholesky()
    close(factor.solve(right.to(gpu)).cpu(), torch.linalg.solve(square, right))
    idle = panels_of(square.to(gpu), Group(rank=7, size=8), width=2)
    assert idle.panels == {}
    assert str(idle.device) == str(idle.copy().device) == gpu
    assert str(PanelGram(5, width=2, device=gpu).finish().device) == gpu


def test_sums_are_not_atomic(gpu):
    """Columns of sets, and structures that are larger than a tile of the device."""
    generator = torch.Generator().manual_seed(0)
    owner = torch.tensor([0, 1, 3, 0, 3, 3, 2])
    columns = torch.randn(4, 7, dtype=torch.float64, generator=generator)
    total = torch.zeros(4, 5, dtype=torch.float64, device=gpu)
    sums.add_columns(total, owner, columns.to(gpu))
    close(total.cpu(), torch.zeros(4, 5, dtype=torch.float64).index_add_(1, owner, columns), 1e-14)


@pytest.mark.parametrize("largest", [1, 7, 64, 10**6])
def test_large_structures_are_summed_part_by_part(gpu, monkeypatch, largest):
    """No tile has more rows than fit, whatever the structures are."""
    monkeypatch.setattr(sums, "DEVICE_ELEMENTS", 3 * largest)
    matrix = torch.randn(100, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    owner = torch.arange(100) // 40
    made_at_once = []

    def tile(a, b, c, d):
        made_at_once.append(b - a)
        return matrix[a:b, c:d].to(gpu)

    found = sums.segment_sums(owner, 4, 3, tile, gpu)
    close(found.cpu(), torch.zeros(4, 3, dtype=torch.float64).index_add_(0, owner, matrix), 1e-13)
    assert max(made_at_once) <= largest


FITS = {
    "direct": {"validation": Validation(folds=2)},
    "mean": {
        "kernel": KernelPlan(reduce="mean", alphas=(0.5,), length_scales="2x"),
        "rows": RowPlan(whitening="cholesky"),
        "validation": Validation(folds=2, uncertainty=False),
    },
    "falkon": {"solver": Falkon((1e-4,), max_steps=2), "validation": Validation(folds=2, uncertainty=False)},
    "exact": {"solver": Exact((1e-6, 1e-4)), "validation": Validation(folds=3, uncertainty=False)},
}


@pytest.mark.parametrize("name", FITS)
def test_fits(gpu, store, small_plan, name):
    """All that a fit does: candidates, errors, uncertainty; the estimate of what it will take, too."""
    plan = replace(small_plan, landmarks=replace(small_plan.landmarks, count=12), **FITS[name])
    there = replace(plan, execution=Execution(device=gpu))
    assert resources(store, there).stages
    found, expected = fit(store, there), fit(store, plan)
    batch = next(iter(FeatureStore(store)))
    close(found.model.energies(batch), expected.model.energies(batch), 1e-6)
    close(found.model.energies(batch, found.model.head.on(gpu)), found.model.energies(batch))
    if expected.model.posterior is not None:
        assert found.model.posterior.energy.within_68 == pytest.approx(expected.model.posterior.energy.within_68, 1e-4)
        assert found.model.posterior.force.within_68 == pytest.approx(expected.model.posterior.force.within_68, 1e-4)


def test_rows_that_are_weighed_again(gpu, tmp_path):
    """Those of a crystal's stiffness, once the errors of the energies are known, from rows that lie on the device."""
    pytest.importorskip("sevenn")
    found = extract(coppers(8), tmp_path / "s", ExtractPlan(derivatives=2)).store
    plan = FitPlan(
        kernel={"length_scales": "16x"}, landmarks=20, baseline="backbone", solver=Direct((1e-8,)),
        rows=RowPlan(weights={"force": 1e-3}), validation=Validation(folds=2, uncertainty=False),
    )  # fmt: skip
    here, there = (fit(found, replace(plan, execution=Execution(device=device))) for device in ("cpu", gpu))
    weights = [report.solution.weights[RowKind.ELASTIC] for report in (here, there)]
    assert weights[0] != 3e-3
    assert weights[1] == pytest.approx(weights[0], rel=1e-2)


def test_sums_that_are_kept(gpu, store, small_plan, tmp_path):
    plan = replace(small_plan, solver=Direct((1e-6,)), validation=Validation(folds=3, uncertainty=False))
    batch = next(iter(FeatureStore(store)))
    expected = fit(store, plan, sums=tmp_path / "here").model.energies(batch)
    there = replace(plan, execution=Execution(device=gpu))
    for _ in range(2):
        close(fit(store, there, sums=tmp_path / "there").model.energies(batch), expected, 1e-7)


def test_forces_without_stored_tangents(gpu, toy_file, spec, small_plan, tmp_path):
    extract(toy_file, tmp_path / "plain", ExtractPlan(spec, dtype="float64"))
    frames = list(read_structures(toy_file))[:3]
    plan = replace(
        small_plan,
        solver=Falkon((1e-4,), max_steps=2),
        landmarks=replace(small_plan.landmarks, count=15),
        validation=Validation(folds=0),
    )
    values = [
        fit(tmp_path / "plain", replace(plan, execution=Execution(device=where)), structures=frames)
        for where in ("cpu", gpu)
    ]
    batch = next(iter(FeatureStore(tmp_path / "plain")))
    close(values[1].model.energies(batch), values[0].model.energies(batch), 1e-6)


def test_extraction(gpu, toy_file, spec, store, tmp_path):
    plan = ExtractPlan(spec, derivatives=4, strain=True, dtype="float64", group_key="trajectory", device=gpu)
    extract(toy_file, tmp_path / "there", plan)
    here, there = (
        {int(i): e for batch in FeatureStore(path) for i, e in zip(batch.ids, batch.energy, strict=True)}
        for path in (store, tmp_path / "there")
    )
    assert here == there
    moved = [next(iter(FeatureStore(path, tangents=True))) for path in (store, tmp_path / "there")]
    width = min(len(batch.runs[0].tangents.features) for batch in moved)
    close(
        moved[1].runs[0].tangents.features[:width].double(), moved[0].runs[0].tangents.features[:width].double(), 1e-6
    )


@pytest.mark.parametrize("kind", ["network", "kernel"])
def test_students(gpu, model_file, toy_structures, spec, tmp_path, kind):
    """They learn as on the CPU; of one teacher, since directions and landmarks are drawn by its labels."""
    student = StudentSpec("schnet-tiny") if kind == "network" else StudentSpec(kernel=spec)
    teacher, found = Potential(model_file), []
    small = [atoms for atoms in toy_structures if len(atoms) < 6][:12]
    for where in ("cpu", gpu):
        plan = FitPlan(landmarks=LandmarkPlan(count=20), solver=Direct(1e-4), execution=where)
        given = (teacher, small, student, tmp_path / where, small[:2], TrainPlan(steps=3), plan, 2)
        report = distill(*given, device=where)
        assert report.predictor.backbone.device.type == torch.device(where).type
        found.append(report.to_teacher.force_rmse)
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize(
    "name", ["schnet", "chgnet", "chgnet:bond1+angle1+conv2", "sevennet", "sevennet:gate1:products", "dimenet++"]
)
def test_backbones(gpu, name, spec, tmp_path):
    """Features and their slopes, of a crystal and of several structures at once."""
    given = spec
    name, colon, layers = name.partition(":")
    if name == "dimenet++":
        pyg = pytest.importorskip("torch_geometric.nn.models")
        pytest.importorskip("sympy")
        from mekrr_scale.backbones import save_dimenet

        network = pyg.DimeNetPlusPlus(16, 1, 2, 8, 4, 24, num_spherical=3, num_radial=3, cutoff=4.0)
        save_dimenet(network, tmp_path / "dimenet.pt")
        given = BackboneSpec(name, checkpoint=str(tmp_path / "dimenet.pt"))
    elif name != "schnet":
        pytest.importorskip({"chgnet": "chgnet", "sevennet": "sevenn"}[name])
        given = BackboneSpec.parse(f"{name}{colon}{layers}")
    if name == "sevennet" and layers:
        given = replace(given, checkpoint=small_sevennet(tmp_path / "small.pt"))
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=0)
    found = []
    for where in ("cpu", gpu):
        backbone = load_backbone(given).to(where, torch.float64)
        graph = backbone.graph([atoms, bulk("Si")])
        positions = graph.positions.detach().clone().requires_grad_(True)
        features = backbone.forward(graph, positions, energies=False).features
        (slope,) = torch.autograd.grad(features.square().sum(), positions)
        assert features.device.type == torch.device(where).type
        found.append((features.detach().cpu(), slope.cpu()))
    for mine, other in zip(found[1], found[0], strict=True):
        close(mine, other, 1e-6)


def test_predictions(gpu, model_file, toy_structures, store, toy_file):
    """Potential, uncertainties, explanations, predictions and errors; the head is where the backbone is."""
    here, there = (Potential(model_file, dtype="float64", device=where) for where in ("cpu", gpu))
    assert there.head.prepared.right.device.type == torch.device(gpu).type
    assert there.model.coefficients.device.type == "cpu"
    cells = [a for a in toy_structures if a.pbc.any()][:2]
    for structures, stress in ((toy_structures[:4], False), (cells, True)):
        expected, found = (potential.predict(structures, stress=stress) for potential in (here, there))
        for name in ("energy", "energies", "forces", *(["stress"] if stress else [])):
            close(getattr(found, name), getattr(expected, name), 1e-8)
    small = toy_structures[0]
    expected, found = (potential.uncertainty(small, forces=True) for potential in (here, there))
    for name in ("energy", "energies", "grade", "forces"):
        close(getattr(found, name), getattr(expected, name), 1e-5)
    close(explain(there, small).similarity, explain(here, small).similarity, 1e-6)
    expected, found = (next(predict(model_file, [small], uncertainty=True, device=where)) for where in ("cpu", gpu))
    assert found.get_potential_energy() == pytest.approx(expected.get_potential_energy(), rel=1e-5)
    for data in (store, toy_file):
        expected, found = (evaluate(model_file, data, uncertainty=True, device=where) for where in ("cpu", gpu))
        np.testing.assert_allclose(found.energy_predicted, expected.energy_predicted, rtol=1e-5)
        np.testing.assert_allclose(found.energy_uncertainty, expected.energy_uncertainty, rtol=1e-2)


def test_simulations(gpu, model_file, toy_structures, tmp_path):
    start = next(a for a in toy_structures if len(a) == 3).copy()
    ends, relaxed = [], []
    for where in ("cpu", gpu):
        calculator = MekrrCalculator(model_file, dtype="float64", device=where, uncertainty=True)
        path = tmp_path / f"{where.split(':')[0]}.xyz"
        run_md(start.copy(), calculator, path, MdPlan("langevin", 5, 0.5, 100.0, interval=5))
        ends.append(ase.io.read(path).positions)
        relaxed.append(relax(start.copy(), calculator, force=0.5, steps=20).positions)
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-8)
    np.testing.assert_allclose(relaxed[1], relaxed[0], atol=1e-6)


@pytest.mark.skipif(ts is None, reason="torch-sim is not installed")
def test_torch_sim(gpu, model_file):
    from mekrr_scale.engines import MekrrModel

    atoms = bulk("C", "diamond", 3.6, cubic=True)
    atoms.rattle(0.05, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = []
        for where in ("cpu", gpu):
            state = ts.initialize_state([atoms, atoms], device=torch.device(where), dtype=torch.float64)
            found.append(MekrrModel(Model.load(model_file), device=where)(state))
    for name, expected in found[0].items():
        assert found[1][name].device.type == torch.device(gpu).type
        close(found[1][name].cpu(), expected, 1e-8)


def test_mliap(gpu, model_file):
    """Of LAMMPS' Kokkos: what it hands over lies on the device."""
    from mekrr_scale.engines import MliapModel
    from tests.engines.mliap_data import Kokkos

    atoms = bulk("C", "diamond", 3.6)
    atoms.rattle(0.05, seed=1)
    model, found = MliapModel(model_file), []
    for where in ("cpu", gpu):
        data = Kokkos(atoms, [model.element_types.index("C")] * 2, 2 * model.rcutfac, model.reach, device=where)
        model.compute_forces(data)
        assert torch.as_tensor(data.f).device.type == torch.device(where).type
        found.append((torch.tensor(data.energy), *(torch.as_tensor(x).cpu() for x in (data.energies, data.f))))
    for mine, other in zip(found[1], found[0], strict=True):
        close(mine, other, 1e-8)


@pytest.mark.skipif(ipi is None, reason="i-PI is not installed")
def test_ipi(gpu, model_file, tmp_path):
    from mekrr_scale.engines import MekrrDriver

    atoms = bulk("C", "diamond", 3.6, cubic=True)
    atoms.rattle(0.05, seed=1)
    ase.io.write(tmp_path / "start.xyz", atoms, format="extxyz")
    beads = [7.0 * np.eye(3)] * 2, [1.9 * atoms.positions] * 2  # bohr
    given = {"template": tmp_path / "start.xyz", "model": model_file, "uncertainty": True}
    on_cpu, on_gpu = (MekrrDriver(**given, device=where)(*beads) for where in ("cpu", gpu))
    for expected, found in zip(on_cpu, on_gpu, strict=True):
        for one, other in zip(expected[:3], found[:3], strict=True):
            close(torch.as_tensor(other), torch.as_tensor(one), 1e-8)
        grades = [json.loads(result[3])["extrapolation"] for result in (expected, found)]
        np.testing.assert_allclose(grades[1], grades[0], rtol=1e-6)
