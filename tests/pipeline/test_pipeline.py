"""Extraction, reading and fitting as stages: labels, units, rejects, parts, resumption, memory."""

import json
import lzma
import shutil
from dataclasses import replace

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.distributed import Checkpoint
from mekrr_scale.errors import ConfigError, StoppedError, StoreError, StructureError
from mekrr_scale.kernels import SpeciesMixing
from mekrr_scale.models import Model, Potential, fit_baseline
from mekrr_scale.pipeline import (
    BaselinePlan,
    ExtractPlan,
    FitPlan,
    KernelPlan,
    LandmarkPlan,
    LengthScale,
    RowPlan,
    Validation,
    evaluate_store,
    extract,
    fit,
    predict,
)
from mekrr_scale.pipeline import evaluate as evaluate_structures
from mekrr_scale.pipeline.fitting import FitData
from mekrr_scale.pipeline.fitting.data import Choice
from mekrr_scale.progress import Silent
from mekrr_scale.regression import Basis, Execution, Problem, Source, assign_folds
from mekrr_scale.solvers import Direct, Exact, Falkon
from mekrr_scale.store import FeatureStore, finalize, verify
from mekrr_scale.structures import LabelKeys, check_structure, count_structures, read_labels, read_structures
from tests.conftest import toy_energy

RIDGES = (1e-8, 1e-6, 1e-4)


def test_compressed_files_read_alike(tmp_path, toy_structures):
    plain = tmp_path / "a.xyz"
    ase.io.write(plain, toy_structures, format="extxyz")
    packed = tmp_path / "a.xyz.xz"
    packed.write_bytes(lzma.compress(plain.read_bytes()))
    traj = tmp_path / "a.traj"
    ase.io.write(traj, toy_structures)
    database = tmp_path / "a.db"
    with ase.db.connect(database) as connection:
        for atoms in toy_structures:
            connection.write(atoms, trajectory=atoms.info["trajectory"])
    for path in (plain, packed, traj, database):
        assert count_structures(path) == len(toy_structures)
        for found, expected in zip(read_structures(path), toy_structures, strict=True):
            assert np.allclose(found.positions, expected.positions, atol=1e-7)
            labels, wanted = read_labels(found, LabelKeys()), read_labels(expected, LabelKeys())
            assert labels.energy == pytest.approx(wanted.energy)
            assert np.allclose(labels.forces, wanted.forces, atol=1e-7)
            assert found.info["trajectory"] == expected.info["trajectory"] or path is traj


def test_reading_streams(tmp_path):
    """The first frame of a long compressed file comes without reading the rest."""
    path = tmp_path / "long.xyz.xz"
    frame = "1\nProperties=species:S:1:pos:R:3 energy=1.0\nH 0 0 0\n"
    path.write_bytes(lzma.compress((frame * 20_000).encode()))
    frames = read_structures(path)
    assert next(frames).get_potential_energy() == 1.0
    frames.close()


def test_labels_are_force_consistent_and_without_constraints():
    atoms = molecule("H2O")
    forces = np.arange(9.0).reshape(3, 3)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, free_energy=-2.0, forces=forces)
    atoms.set_constraint(FixAtoms([0]))
    labels = read_labels(atoms, LabelKeys())
    assert labels.energy == -2.0
    assert np.array_equal(labels.forces, forces)
    assert labels.stress is None


def test_keys_and_units():
    atoms = molecule("H2O")
    atoms.info["REF_energy"] = 2.0
    atoms.arrays["REF_forces"] = np.ones((3, 3))
    atoms.info["virial"] = np.eye(3)
    atoms.cell = [4, 4, 4]
    keys = LabelKeys("REF_energy", "REF_forces", "virial", **LabelKeys.parse_units("Hartree,bohr,GPa"))
    labels = read_labels(atoms, keys)
    assert labels.energy == pytest.approx(2 * 27.211386)
    assert labels.forces[0, 0] == pytest.approx(27.211386 / 0.52917721)
    assert labels.stress[:3] == pytest.approx(1 / 160.21766)
    with pytest.raises(StructureError, match="Do you mean 'REF_energy'"):
        read_labels(atoms, LabelKeys("REF_enrgy"))
    with pytest.raises(StructureError, match="pass --energy-key REF_energy"):
        check_structure(atoms, read_labels(atoms, LabelKeys()))
    with pytest.raises(StructureError, match="Do you mean 'Hartree'"):
        LabelKeys(**LabelKeys.parse_units("hartree"))


def bad_structures():
    """Structures that must not enter a fit, with what the reject says."""

    def labelled(atoms, energy=-1.0, **results):
        atoms.calc = SinglePointCalculator(atoms, energy=energy, **results)
        return atoms

    water = molecule("H2O")
    return [
        (labelled(water.copy(), energy=np.nan), "energy not finite"),
        (labelled(water.copy(), forces=np.full((3, 3), np.inf)), "forces not finite"),
        (water.copy(), "no energy"),
        (labelled(Atoms("H2", positions=[(0, 0, 0), (0, 0, 0.1)])), "overlap"),
        (labelled(Atoms("H2", positions=[(0, 0, 0), (0, 0, 5.95)], cell=[6] * 3, pbc=True)), "overlap"),
        (labelled(Atoms("H", cell=[0, 0, 0], pbc=False, positions=[(np.nan, 0, 0)])), "not finite"),
        (labelled(Atoms("O", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 3]], pbc=True)), "no volume"),
        (labelled(Atoms("X", positions=[(0, 0, 0)])), "does not know species"),
    ]


@pytest.mark.parametrize("number", range(len(bad_structures())))
def test_bad_structures_are_listed_and_do_not_stop_the_rest(tmp_path, spec, toy_structures, number):
    bad, reason = bad_structures()[number]
    path = tmp_path / "mixed.traj"
    ase.io.write(path, [toy_structures[0], bad, toy_structures[1]])
    report = extract(path, tmp_path / "s", ExtractPlan(spec))
    assert report.store.n_structures == 2
    lines = [json.loads(line) for line in (tmp_path / "s" / "rejects.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == [1]
    assert reason in lines[0]["reason"]
    assert "energy" not in reason or sum(report.rejected.values()) == 1


def test_no_usable_structure(tmp_path, spec):
    ase.io.write(tmp_path / "x.traj", [molecule("H2O"), molecule("CO")])
    with pytest.raises(StructureError, match="no structure could be used: .*no energy"):
        extract(tmp_path / "x.traj", tmp_path / "s", ExtractPlan(spec))
    extract(tmp_path / "x.traj", tmp_path / "free", ExtractPlan(spec, need_energy=False))
    assert FeatureStore(tmp_path / "free").n_structures == 2
    with pytest.raises(ConfigError, match="no structure in the store has an energy"):
        fit(tmp_path / "free", FitPlan(landmarks=LandmarkPlan(count=2)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no structures"),
        ("3\ncomment\nH 0 0 0\n", "in the middle of a frame"),
        ("three\ncomment\n", "expected a number of atoms"),
        ("1\nProperties=species:S:1:pos:R:3\nH 0 zero 0\n", "cannot be read"),
    ],
)
def test_broken_files(tmp_path, spec, text, message):
    path = tmp_path / "broken.xyz"
    path.write_text(text)
    with pytest.raises(StructureError, match=message):
        extract(path, tmp_path / "s", ExtractPlan(spec))


def test_truncated_archive(tmp_path, spec, toy_file):
    path = tmp_path / "cut.xyz.xz"
    path.write_bytes(lzma.compress(toy_file.read_bytes())[:-40])
    with pytest.raises(StructureError, match="cut off or damaged"):
        extract(path, tmp_path / "s", ExtractPlan(spec))


def test_parts_make_the_same_store(tmp_path, toy_file, spec, store):
    plan = ExtractPlan(spec, derivatives=4, strain=True, dtype="float64", shard_bytes=30_000, group_key="trajectory")
    for i in (2, 1, 3):
        report = extract(toy_file, tmp_path / "parts", replace(plan, part=(i, 3)))
        assert report.store is None
    assert finalize(tmp_path / "parts").id == FeatureStore(store).id


def test_structures_in_memory(tmp_path, toy_file, toy_structures, spec):
    """A list makes the features that its file makes, up to the eight digits of the positions in the file."""
    plan = ExtractPlan(spec, derivatives=2)
    stores = [extract(given, tmp_path / name, plan).store for name, given in (("a", toy_file), ("b", toy_structures))]
    for one, two in zip(*stores, strict=True):
        for left, right in zip(one.runs, two.runs, strict=True):
            torch.testing.assert_close(left.features, right.features, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.energy, two.energy, rtol=0, atol=1e-7, equal_nan=True)
    again = extract(toy_structures, tmp_path / "b", plan)
    assert (again.written, again.resumed) == (0, stores[1].n_structures)
    for wrong in ([], [toy_file, toy_structures[0]]):
        with pytest.raises(StructureError, match="one of the two"):
            extract(wrong, tmp_path / "c", plan)


def test_resuming_computes_nothing_again(tmp_path, toy_file, spec):
    plan = ExtractPlan(spec, shard_bytes=2000)
    first = extract(toy_file, tmp_path / "s", plan)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("*.h5")}
    victim = sorted(times)[0]
    (tmp_path / "s" / victim).write_bytes(b"damaged")
    again = extract(toy_file, tmp_path / "s", plan)
    assert again.resumed > 0
    assert 0 < again.written < first.written
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("*.h5")}
    assert [name for name in times if times[name] != after[name]] == [victim]
    assert again.store.id == first.store.id
    assert verify(tmp_path / "s").ok
    with pytest.raises(StoreError, match="another kind"):
        extract(toy_file, tmp_path / "s", replace(plan, dtype="float64"))


def test_another_grouping_is_not_taken_for_the_same_work(tmp_path, toy_file, spec):
    first = extract(toy_file, tmp_path / "a", ExtractPlan(spec)).store
    (batch,) = extract(toy_file, tmp_path / "a", ExtractPlan(spec, group_key="trajectory")).store
    assert batch.n_structures == first.n_structures
    assert len(batch.groups.unique()) == 6  # the newer ones


def strained_features(backbone, atoms, i, j, step=1e-5):
    """Slopes of the features along a component of Voigt's strain, by differences."""
    ends = []
    for sign in (1, -1):
        moved, strain = atoms.copy(), np.eye(3)
        strain[i, j] += sign * step / 2
        strain[j, i] += sign * step / 2
        moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        ends.append(backbone.features(moved))
    return (ends[0] - ends[1]) / (2 * step)


def test_tangents_and_labels_in_the_store(store, toy_structures, spec):
    """Stored tangents are finite differences of features, stored labels -u.F and V sigma:eps."""
    from mekrr_scale.backbones import load_backbone

    backbone = load_backbone(spec).to(dtype=torch.float64)
    at = 0
    strains = 0
    for batch in FeatureStore(store, tangents=True):
        labels = batch.directions
        for i in range(batch.n_structures):
            atoms = toy_structures[at]
            at += 1
            part = slice(int(labels.ptr[i]), int(labels.ptr[i + 1]))
            kinds = labels.kind[part]
            strains += int((kinds == 2).sum())
            assert int((kinds == 1).sum()) == 4
            assert int((kinds == 2).sum()) == (6 if atoms.pbc.any() else 0)
            if not atoms.pbc.any():
                continue
            stress = read_labels(atoms, LabelKeys()).stress
            for k, pair in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
                expected = strained_features(backbone, atoms, *pair)
                for run, source in zip(batch.runs, batch.sources, strict=True):
                    a, b = int(run.ptr[i]), int(run.ptr[i + 1])
                    rows = run.tangents.features[run.tangents.ptr[i] : run.tangents.ptr[i + 1]]
                    found = rows.reshape(10, b - a, 16)[4 + k]
                    torch.testing.assert_close(found, expected[source[a:b]], rtol=1e-5, atol=1e-7)
                assert float(labels.label[part][4 + k]) == pytest.approx(atoms.get_volume() * stress[k])
    assert strains == 36


def test_all_directions_reproduce_the_forces(tmp_path, toy_file, toy_structures, spec):
    extract(toy_file, tmp_path / "s", ExtractPlan(spec, derivatives="all"))
    found = torch.cat([batch.directions.label for batch in FeatureStore(tmp_path / "s", tangents=True)])
    forces = np.concatenate([read_labels(a, LabelKeys()).forces.ravel() for a in toy_structures])
    assert np.allclose(found.numpy(), -forces, atol=1e-7)


def test_wrong_units_are_noticed(tmp_path, real_structures, store):
    """Forces in kcal/mol/A by their size, energies by their scatter."""
    wrong = []
    for atoms in real_structures[:3]:
        copy = atoms.copy()
        labels = read_labels(atoms, LabelKeys())
        copy.calc = SinglePointCalculator(copy, energy=labels.energy, forces=labels.forces * 23.06)
        wrong.append(copy)
    ase.io.write(tmp_path / "wrong.xyz", wrong, format="extxyz")
    report = extract(tmp_path / "wrong.xyz", tmp_path / "s")
    assert any("kcal/mol" in warning for warning in report.warnings)
    right = extract(tmp_path / "wrong.xyz", tmp_path / "s2", ExtractPlan(keys=LabelKeys(energy_unit="kcal/mol")))
    assert not right.warnings


def test_evaluation_and_prediction(model_file, fitted, toy_structures, store, tmp_path):
    potential = Potential(Model.load(model_file), dtype=torch.float64)
    found = evaluate_structures(potential, toy_structures)
    stored = evaluate_store(fitted.model, FeatureStore(store))
    assert found.metrics()["energy_rmse"] == pytest.approx(stored.metrics()["energy_rmse"], rel=1e-5)
    assert set(found.force_errors_by_species()) == {"H", "C", "O"}
    error = np.concatenate([p.get_forces() for p in predict(potential, toy_structures)]) - found.forces
    assert found.metrics()["force_rmse"] == pytest.approx(1e3 * np.sqrt((error**2).mean()))
    out = list(predict(potential, toy_structures))
    ase.io.write(tmp_path / "p.xyz", out, format="extxyz")
    back = ase.io.read(tmp_path / "p.xyz", ":")
    assert back[0].get_potential_energy() == pytest.approx(found.energy_predicted[0])
    with pytest.raises(StructureError, match="no structure could be evaluated"):
        evaluate_structures(potential, [molecule("H2O")])


def test_cross_validation_is_honest(store, small_plan):
    """The out-of-fold predictions are those of refits, baseline included, that never saw the structure."""
    plan = replace(small_plan, rows=RowPlan(derivatives=False))
    report = fit(store, plan)
    model, best, batches = report.model, report.solution.path.best(), list(FeatureStore(store))
    n = torch.cat([b.n_atoms for b in batches]).double()
    counts = torch.cat([b.counts(model.species) for b in batches]).double()
    energy = torch.cat([b.energy for b in batches])
    folds = torch.cat([FitData.open(store, plan).folds().of(b) for b in batches])
    values, vectors = torch.linalg.eigh(model.kernel.gram(model.landmarks))
    kept = values > plan.rows.cut * values.max()
    rows = torch.cat([model.kernel.rows(b, model.landmarks) for b in batches])
    rows = rows @ vectors[:, kept] / values[kept].sqrt() / n[:, None]
    expected = torch.zeros_like(energy)
    for fold in range(3):
        inside = folds != fold
        references = torch.linalg.pinv(counts[inside]) @ energy[inside]
        target = (energy - counts @ references) / n
        gram = rows[inside].T @ rows[inside] + best.ridge * torch.eye(rows.shape[1], dtype=torch.float64)
        found = rows @ torch.linalg.solve(gram, rows[inside].T @ target[inside]) + counts @ references / n
        expected[~inside] = found[~inside]
    baseline = counts @ model.baseline.energies / n
    torch.testing.assert_close(report.reference, energy / n - baseline)
    torch.testing.assert_close(report.predicted, expected - baseline, rtol=1e-4, atol=1e-6)
    error = report.predicted - report.reference
    assert float(error.square().mean().sqrt()) == pytest.approx(best.rmse[RowKind.ENERGY], rel=1e-6)
    assert report.chosen.rmse == best.rmse


def test_several_alphas_cost_one_pass(store, small_plan, monkeypatch):
    """Passes over the store are counted; without room for the sweep's matrices every alpha costs some."""
    passes, begin = [], FeatureStore.__iter__
    monkeypatch.setattr(FeatureStore, "__iter__", lambda self: (passes.append(self.path), begin(self))[1])

    def counted(*alphas, **execution):
        passes.clear()
        fit(store, replace(small_plan, kernel=KernelPlan(length_scales="2x", alphas=alphas), **execution))
        return len(passes)

    assert counted(0.5, 1.0) == counted(0.5, 0.8, 1.0)
    small = {"execution": Execution(memory=0)}
    assert counted(0.5, 1.0, **small) < counted(0.5, 0.8, 1.0, **small)


def test_several_alphas_in_one_sweep_change_nothing(store, small_plan):
    """The sweep gives what a fit of each alpha gives; without room for its matrices each is fitted alone."""
    plan = replace(small_plan, kernel=KernelPlan(length_scales="2x", alphas=(0.0, 0.5, 0.8, 1.0)))
    swept = fit(store, plan)
    alone = fit(store, replace(plan, execution=Execution(memory=0)))
    assert swept.model.kernel.mixing == alone.model.kernel.mixing
    for a, b in zip(swept.tried, alone.tried, strict=True):
        assert a.alpha == b.alpha
        assert a.rmse[RowKind.ENERGY] == pytest.approx(b.rmse[RowKind.ENERGY], rel=1e-3)
    energies = [evaluate_store(r.model, FeatureStore(store)).energy_predicted for r in (swept, alone)]
    assert np.allclose(energies[0], energies[1], atol=1e-3)


@pytest.fixture(scope="module")
def fresh(spec, tmp_path_factory):
    """Structures like those of the store, of other draws."""
    generator, listed = np.random.default_rng(77), []
    for i in range(24):
        atoms = [molecule("H2O"), molecule("CH4"), bulk("C", "diamond", 3.6).repeat(2), molecule("CO")][i % 4]
        atoms.rattle(0.08, rng=generator)
        energy, _ = toy_energy(atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, free_energy=energy)
        listed.append(atoms)
    folder = tmp_path_factory.mktemp("fresh") / "s"
    extract(listed, folder, ExtractPlan(spec, dtype="float64"))
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {"solver": Exact(RIDGES)},
        {
            "solver": Falkon((1e-5, 1e-3)),
            "landmarks": LandmarkPlan(count=30),
            "rows": RowPlan(weights={"force": 1e-3}),
        },
        {"landmarks": LandmarkPlan(method="farthest", count=60)},
        {"landmarks": LandmarkPlan(method="leverage", count=60)},
        {"landmarks": LandmarkPlan(method="structures", count=12)},
        {"kernel": KernelPlan(name="gaussian-sum", length_scales="1x,3x")},
        {"kernel": KernelPlan(name="linear", length_scales="2x", parameters={"offset": 1.0})},
        {"rows": RowPlan(whitening="cholesky")},
        {"baseline": BaselinePlan(kinds="isolated", isolated={"H": -1.5, "C": -1.5, "O": -1.5})},
        {"validation": Validation(folds=0), "solver": Direct((1e-5,))},
        {"kernel": KernelPlan(length_scales="2x", reduce="mean", alphas=0.4)},
    ],
    ids=lambda change: "-".join(f"{k}={v}" for k, v in change.items())[:40],
)
def test_every_way_to_fit_learns(store, small_plan, fresh, change):
    """On structures that were not fitted a tenth of what the baseline leaves at most."""
    report = fit(store, replace(small_plan, **change))
    assert report.plan.solver.name == report.model.provenance["solver"]
    found = evaluate_store(report.model, FeatureStore(fresh))
    left = 1e3 * np.sqrt((((found.energy - found.baseline) / found.n_atoms) ** 2).mean())
    assert found.metrics()["energy_rmse"] < 0.1 * left


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FitPlan(kernel="gausian"), "Do you mean 'gaussian'"),
        (lambda: FitPlan(kernel=KernelPlan(alphas=(2.0,))), "alpha is 2.0"),
        (lambda: FitPlan(solver=Direct(ridges=())), "ridges is empty"),
        (lambda: FitPlan(validation=1), "at least 2"),
        (lambda: FitPlan(validation=0), "several candidates"),
        (lambda: LengthScale.parse("-3x"), "length scale"),
        (lambda: LengthScale.parse("wide"), "length scale"),
        (lambda: ExtractPlan(part=(4, 3)), "part 4/3"),
        (lambda: ExtractPlan(derivatives=0), "positive number"),
        (lambda: ExtractPlan(shard_bytes=0), "must be positive"),
    ],
)
def test_refused_plans(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_missing_group_key(tmp_path, toy_file, spec):
    with pytest.raises(StructureError, match="no info key 'run'"):
        extract(toy_file, tmp_path / "s", ExtractPlan(spec, group_key="run"))


def test_kept_sums_take_new_shards_alone(toy_file, spec, tmp_path, small_plan, monkeypatch):
    """A store in two parts: the second fit reads the second part alone and equals one fit to both."""
    for part, shard in ((1, 30_000), (2, 30_000)):
        plan = ExtractPlan(spec, derivatives=4, strain=True, dtype="float64", shard_bytes=shard, part=(part, 2))
        extract(toy_file, tmp_path / f"part{part}", plan)
        finalize(tmp_path / f"part{part}", allow_incomplete=True)
    first, both = tmp_path / "part1", [tmp_path / "part1", tmp_path / "part2"]
    fit(both[1], replace(small_plan, landmarks=LandmarkPlan(count=30)), sums=tmp_path / "sums")
    for path in (tmp_path / "sums").glob("sums*"):
        path.unlink()  # as if killed between the frame and the first sums: that frame counts for nothing
    begun = fit(first, small_plan, sums=tmp_path / "sums")
    assert torch.equal(Model.load(tmp_path / "sums" / "frame.mekrr").landmarks.features, begun.model.landmarks.features)
    assert begun.model.posterior is None
    read = []
    opened = FeatureStore.open
    monkeypatch.setattr(
        FeatureStore, "open", lambda self, info: (read.append((self, info.path)), opened(self, info))[1]
    )
    grown = fit(both, small_plan, sums=tmp_path / "sums")
    passed_over = {path for store, path in read if store.owned is not None}
    assert passed_over == {info.path for info in FeatureStore(both[1]).shards}
    monkeypatch.undo()
    again = fit(both, small_plan, sums=tmp_path / "sums")
    assert torch.equal(again.model.coefficients, grown.model.coefficients)
    frame = Model.load(tmp_path / "sums" / "frame.mekrr")
    stores = [replace(FeatureStore(path), tangents=True) for path in both]
    batches = [batch for store in stores for batch in store]
    baseline = fit_baseline(batches, "composition")
    problem = Problem(
        frame.kernel,
        frame.landmarks,
        baseline,
        assign_folds((), 3, exact=False),
        weights=tuple(ByKind.from_list([1.0, force, 1e-3], 0.0) for force in (1e-4, 1e-3, 1e-2, 1e-1)),
        basis=Basis(1e-11),
    )
    whole = Direct(RIDGES).solve(problem, Source(batches, batches))
    assert grown.solution.ridges == whole.ridges
    assert grown.solution.weights == whole.weights
    for mine, other in zip(grown.solution.path.points, whole.path.points, strict=True):
        assert (mine.ridge, mine.weights) == (other.ridge, other.weights)
        assert mine.rmse[RowKind.ENERGY] == pytest.approx(other.rmse[RowKind.ENERGY], rel=1e-5)
        assert mine.rmse[RowKind.FORCE] == pytest.approx(other.rmse[RowKind.FORCE], rel=1e-5)
    torch.testing.assert_close(grown.model.baseline.energies, baseline.energies, rtol=1e-9, atol=1e-9)
    for batch in batches:
        expected = frame.kernel.rows(batch, frame.landmarks) @ whole.value[:, 0]
        found = frame.kernel.rows(batch, frame.landmarks) @ grown.model.coefficients
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    (tmp_path / "third").mkdir()
    shutil.copy(tmp_path / "sums" / "frame.mekrr", tmp_path / "third")
    (tmp_path / "third" / "sums.safetensors").write_bytes(b"torn")
    with pytest.raises(ConfigError, match="damaged"):
        fit(both, small_plan, sums=tmp_path / "third")
    with pytest.raises(ConfigError, match="no longer have"):
        fit(first, small_plan, sums=tmp_path / "sums")
    with pytest.raises(ConfigError, match="another fit"):
        fit(both, replace(small_plan, landmarks=LandmarkPlan(count=50)), sums=tmp_path / "sums")
    several = KernelPlan(length_scales="2x", alphas=(0.5, 1.0))
    with pytest.raises(ConfigError, match="one length scale"):
        fit(both, replace(small_plan, kernel=several), sums=tmp_path / "new")


def test_precision_of_energy_rows_is_the_plans(store, small_plan):
    """Elements of float32 in energy rows move the energies; those of derivative rows are float32 unless asked."""
    plans = {
        name: replace(small_plan, rows=RowPlan(weights={"force": 1e-3}, **given))
        for name, given in (
            ("default", {}),
            ("same", {"energy_precision": "float64", "derivative_precision": "float32"}),
            ("single", {"energy_precision": "float32"}),
            ("double", {"derivative_precision": "float64"}),
        )
    }
    found = {name: fit(store, plan).model.coefficients for name, plan in plans.items()}
    assert torch.equal(found["same"], found["default"])
    assert not torch.equal(found["single"], found["default"])
    assert not torch.equal(found["double"], found["default"])
    data = FitData.open(store, plans["single"])
    (problem,) = data.family(Choice("scale-per-species", "composition", LengthScale(2.0)), None)
    for batch, block in zip(data.energies, problem.rows(data.source, {RowKind.ENERGY}), strict=True):
        expected = problem.kernel.rows(batch, problem.landmarks, torch.float32)
        assert torch.equal(block.rows, expected)
        assert not torch.equal(block.rows, problem.kernel.rows(batch, problem.landmarks))


class Iterations(Silent):
    """Steps that a solver tells of, after some of which it asks the job to stop."""

    def __init__(self, stop=None, after=3):
        self.stop, self.after, self.stage_now, self.steps = stop, after, "", []

    def stage(self, name, total=None, unit=""):
        self.stage_now = name

    def advance(self, steps=1):
        if self.stage_now == "iterations":
            self.steps.append(steps)
            if self.stop is not None and len(self.steps) > self.after:
                self.stop.asked = True


def test_a_fit_with_a_mixing_matrix_goes_on_from_its_state(store, small_plan, tmp_path):
    """Its state was refused as another fit's: the matrix stood in it as an alpha that is not a number."""
    matrix = {"H": (1.0, 0.3, 0.2), "C": (0.3, 1.0, 0.5), "O": (0.2, 0.5, 1.0)}
    plan = replace(
        small_plan,
        kernel=KernelPlan(length_scales="2x", mixing=matrix),
        rows=RowPlan(weights={"force": 1e-2}),
        solver=Falkon((1e-6,), max_steps=30),
    )
    whole = fit(store, plan)
    assert whole.model.kernel.mixing == SpeciesMixing(0.0, (1, 6, 8), tuple(matrix.values()))
    assert whole.chosen.alpha is None
    first = Checkpoint(tmp_path / "kept", {}, interval=0.0)
    with pytest.raises(StoppedError):
        fit(store, plan, Iterations(first.stop), checkpoint=first)
    seen = Iterations()
    again = fit(store, plan, seen, checkpoint=Checkpoint(tmp_path / "kept", {}, interval=0.0))
    assert seen.steps[0] >= 3
    assert torch.equal(again.model.coefficients, whole.model.coefficients)
    changed = {**matrix, "H": (1.0, 0.3, 0.1), "O": (0.1, 0.5, 1.0)}
    other = replace(plan, kernel=KernelPlan(length_scales="2x", mixing=changed))
    with pytest.raises(ConfigError, match="another fit .*mixing"):
        fit(store, other, checkpoint=Checkpoint(tmp_path / "kept", {}))


def test_a_finished_candidate_is_not_solved_again(store, small_plan, tmp_path):
    """Its solution is taken from the checkpoint, with the weights that were chosen."""
    plan = replace(small_plan, kernel=KernelPlan(length_scales="2x", alphas=(0.0, 1.0)))
    kept = Checkpoint(tmp_path / "kept", {}, interval=0.0)
    first = fit(store, plan, checkpoint=kept)
    names = sorted(path.name for path in (tmp_path / "kept").glob("*solution.safetensors"))
    assert names == ["trial0-alpha0-solution.safetensors", "trial0-alpha1-solution.safetensors"]
    second = fit(store, plan, checkpoint=Checkpoint(tmp_path / "kept", {}, interval=0.0))
    assert second.solution.weights == first.solution.weights
    assert second.solution.effort == first.solution.effort  # seconds too: nothing was solved
    assert torch.equal(second.model.coefficients, first.model.coefficients)
    torch.testing.assert_close(second.model.posterior.factor, first.model.posterior.factor)
