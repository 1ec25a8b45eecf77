"""Force rows as maps against the same rows made of stored tangents."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import molecule

from mekrr_scale.arrays import ByKind, RowKind
from mekrr_scale.backbones import load_backbone
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, fit_transform
from mekrr_scale.landmarks import Uniform
from mekrr_scale.models import Potential, fit_baseline
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, RowPlan, extract, fit
from mekrr_scale.pipeline.fitting import FitData
from mekrr_scale.progress import Silent
from mekrr_scale.regression import (
    LabelledStructure,
    ModeCosts,
    Precision,
    Problem,
    Source,
    Structures,
    assign_folds,
    maps,
)
from mekrr_scale.regression.maps import MapRows
from mekrr_scale.solvers import Direct, Falkon
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import LabelKeys, read_labels, read_structures, structure_hash

WEIGHTS = ByKind.from_list([1.0, 1e-2], 0.0)


@pytest.fixture(scope="module")
def all_directions(toy_file, spec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores") / "all"
    extract(toy_file, folder, ExtractPlan(spec, derivatives="all", dtype="float64", shard_bytes=200_000))
    return FeatureStore(folder)


def made(all_directions, spec, toy_file, reduce="sum", alpha=0.5):
    """A problem; its source with stored tangents, and with the structures themselves instead."""
    kernel = SetKernel(Gaussian(3.0), SpeciesMixing(alpha), reduce, fit_transform(all_directions, "scale-per-species"))
    problem = Problem(
        kernel,
        Uniform(40).select(all_directions, kernel),
        fit_baseline(all_directions, "composition"),
        assign_folds(all_directions, 3),
        weights=(WEIGHTS,),
        criterion=ByKind.from_list([1.0], 0.0),
        precision=Precision(derivative=torch.float64),
    )
    listed = []
    for atoms in read_structures(toy_file):
        labels = read_labels(atoms, LabelKeys())
        listed.append(LabelledStructure(atoms, labels, structure_hash(atoms, labels)))
    structures = Structures(listed, load_backbone(spec).to(dtype=torch.float64))
    stored = Source(all_directions, FeatureStore(all_directions.path, tangents=True))
    return problem, stored, Source(all_directions, structures=structures)


FORCES = {RowKind.FORCE}


def joined(rows):
    """The force rows, made where they are maps, and everything about them."""
    blocks = list(rows)
    assert {block.kind for block in blocks} == FORCES
    matrix = torch.cat([block.matrix[torch.ones(len(block.target), dtype=torch.bool)] for block in blocks])
    return matrix, {
        name: torch.cat([getattr(block, name) for block in blocks])
        for name in ("target", "weight", "share", "counts", "scale", "fold")
    }


@pytest.mark.parametrize(("reduce", "alpha"), [("sum", 0.5), ("sum", 1.0), ("mean", 0.5)])
def test_maps_equal_stored_rows(all_directions, spec, toy_file, reduce, alpha):
    problem, stored, free = made(all_directions, spec, toy_file, reduce, alpha)
    expected, labels = joined(problem.rows(stored, FORCES))
    maps = problem.rows(free, FORCES)
    found, others = joined(maps)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)
    for name, values in labels.items():
        torch.testing.assert_close(others[name], values, rtol=1e-9, atol=1e-12)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(expected.shape[1], 2, generator=generator, dtype=torch.float64)
    moves = torch.randn(expected.shape[0], 2, generator=generator, dtype=torch.float64)
    products = torch.cat([block.matrix @ vectors for block in maps])
    torch.testing.assert_close(products, expected @ vectors, rtol=1e-7, atol=1e-9)
    start, pulled = 0, torch.zeros(expected.shape[1], 2, dtype=torch.float64)
    for block in maps:
        stop = start + len(block.target)
        assert block.matrix.shape == (stop - start, expected.shape[1])
        pulled += block.matrix.T @ moves[start:stop]
        start = stop
    torch.testing.assert_close(pulled, expected.T @ moves, rtol=1e-7, atol=1e-9)


def test_maps_by_themselves(all_directions, spec, toy_file):
    """Iterated over as the parts of a chain are, and passed over where it is asked for."""
    problem, _, free = made(all_directions, spec, toy_file)
    chained = list(problem.rows(free, FORCES))
    alone = MapRows(free.structures, problem)
    found = list(alone)
    assert len(found) == len(chained) > 1
    for one, other in zip(found, chained, strict=True):
        assert torch.equal(one.target, other.target)
        assert one.matrix.shape == other.matrix.shape
    later = list(alone.blocks(1))
    assert later[0] is None
    assert [block.target.tolist() for block in later[1:]] == [block.target.tolist() for block in chained[1:]]


def test_falkon_gives_the_same_model(all_directions, spec, toy_file):
    """Stored float64 tangents and none at all: the same predictions to 1e-6."""
    problem, stored, free = made(all_directions, spec, toy_file)
    whole = replace(problem, folds=None)
    solver = Falkon((1e-5,), subset=0.5, rtol=1e-10, max_steps=200)
    first, second = solver.solve(whole, stored), solver.solve(whole, free)
    rows, _ = joined(problem.rows(stored, FORCES))
    energies = torch.cat([block.matrix for block in problem.rows(stored, {RowKind.ENERGY})])
    for matrix in (rows, energies):
        a, b = matrix @ first.value, matrix @ second.value
        assert float((a - b).abs().max() / a.abs().max()) < 1e-6
    direct = Direct((1e-5,)).solve(whole, stored)
    a, b = rows @ direct.value, rows @ second.value
    assert float((a - b).abs().max() / a.abs().max()) < 1e-6


def test_cross_validated_errors_are_the_same(all_directions, spec, toy_file):
    problem, stored, free = made(all_directions, spec, toy_file)
    solver = Falkon((1e-4, 1e-3), subset=1.0, rtol=1e-8, max_steps=100)
    first, second = solver.solve(problem, stored), solver.solve(problem, free)
    for a, b in zip(first.path.points, second.path.points, strict=True):
        assert (b.ridge, b.weights) == (a.ridge, a.weights)
        assert b.rmse[RowKind.ENERGY] == pytest.approx(a.rmse[RowKind.ENERGY], rel=1e-5)
        assert b.rmse[RowKind.FORCE] == pytest.approx(a.rmse[RowKind.FORCE], rel=1e-5)


def test_solvers_that_need_rows_say_so(all_directions, spec, toy_file):
    problem, _, free = made(all_directions, spec, toy_file)
    with pytest.raises(ConfigError, match="'direct' needs the rows themselves.*solve with 'falkon'"):
        Direct((1e-5,)).solve(problem, free)
    with pytest.raises(ConfigError, match="solve with Falkon"):
        _ = next(iter(problem.rows(free, FORCES))).rows


def test_fit_without_tangents(toy_file, spec, all_directions, tmp_path):
    """The whole job: a store of features alone, and the structures beside it."""
    folder = tmp_path / "plain"
    extract(toy_file, folder, ExtractPlan(spec, dtype="float64"))
    plan = FitPlan(
        kernel=KernelPlan(length_scales="2x"), landmarks=LandmarkPlan(count=40), baseline="composition", validation=0,
        rows=RowPlan(weights={"force": 1e-2}), solver=Falkon((1e-5,), rtol=1e-9, subset=0.5),
    )  # fmt: skip
    notes = []

    class Notes(Silent):
        def note(self, text):
            notes.append(text)

    free = fit(folder, plan, Notes(), read_structures(toy_file)).model
    assert "matrix-free" in notes[0]
    stored = fit(all_directions.path, plan).model
    atoms = next(read_structures(toy_file))
    predictions = [Potential(model, dtype=torch.float64).predict(atoms) for model in (free, stored)]
    # the pipeline makes stored rows with float32 elements
    torch.testing.assert_close(predictions[0].forces, predictions[1].forces, rtol=1e-3, atol=1e-4)
    with pytest.raises(ConfigError, match="without tangents"):
        fit(all_directions.path, plan, structures=read_structures(toy_file))
    with pytest.raises(ConfigError, match="none of the structures"):
        fit(folder, plan, structures=[molecule("H2O")])


def test_rows_carry_the_weights_of_stores_and_keep_trajectories_together(toy_file, spec, tmp_path):
    """Two stores of weights 1 and 10, trajectories in one fold: maps as rows of stored tangents of the same stores."""
    frames = list(read_structures(toy_file))
    parts = {"tangents": [], "plain": []}
    for place, part in enumerate((frames[:12], frames[12:])):
        for name, derivatives in (("tangents", "all"), ("plain", "none")):
            folder = tmp_path / f"{name}{place}"
            extract(part, folder, ExtractPlan(spec, derivatives=derivatives, dtype="float64", group_key="trajectory"))
            parts[name].append(folder)
    plan = FitPlan(
        kernel=KernelPlan(length_scales=3.0), landmarks=LandmarkPlan(count=30), baseline="composition", validation=3,
        rows=RowPlan(weights={"force": 1e-2}, store_weights=(1, 10), derivative_precision="float64"),
        solver=Falkon((1e-5,)),
    )  # fmt: skip
    stored = FitData.open(parts["tangents"], plan)
    free = FitData.open(parts["plain"], plan, frames)
    kernel = SetKernel(Gaussian(3.0), SpeciesMixing(1.0), "sum", stored.transform("scale-per-species"))
    problem = Problem(
        kernel, stored.landmarks(kernel), stored.baseline("composition"), stored.folds(),
        precision=Precision(derivative=torch.float64),
    )  # fmt: skip
    expected, labels = joined(problem.rows(stored.source, FORCES))
    found, others = joined(problem.rows(free.source, FORCES))
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)
    for name, values in labels.items():
        torch.testing.assert_close(others[name], values, rtol=1e-9, atol=1e-12)
    sizes = np.array([len(atoms) for atoms in frames])
    weight = np.where(np.arange(24) < 12, 1.0, 10.0).repeat(3 * sizes)
    assert np.allclose(others["weight"].numpy() * 3 * sizes.repeat(3 * sizes), weight, rtol=1e-12)
    assert np.allclose(others["share"].numpy() * 3 * sizes.repeat(3 * sizes), weight, rtol=1e-12)
    runs = np.array([atoms.info["trajectory"] for atoms in frames]).repeat(3 * sizes)
    folds = others["fold"].numpy()
    assert all(len(set(folds[runs == name])) == 1 for name in set(runs))
    assert len(set(folds)) == 3


def test_costs_of_both_ways_are_scaled_to_the_structure(spec, monkeypatch):
    """By a clock that a direction moves by a second, and a reverse sweep by ten."""
    now, apart = [0.0], [True]
    real_tangents, real_grad = maps.tangents, torch.autograd.grad

    def moved(backbone, graph, directions, mode):
        now[0] += len(directions)
        apart[0] = False
        found = real_tangents(backbone, graph, directions, mode=mode)
        apart[0] = True
        return found

    def swept(*args, **given):
        now[0] += 10.0 * apart[0]
        return real_grad(*args, **given)

    monkeypatch.setattr(maps, "tangents", moved)
    monkeypatch.setattr(maps.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.autograd, "grad", swept)
    backbone = load_backbone(spec)
    atoms = molecule("CH4")
    for most in (3, 9, 99):
        costs = ModeCosts.measure(backbone, atoms, most)
        assert costs.stored == 15.0  # three directions for each of five atoms
        assert costs.sweeps == 11.0
        assert costs.break_even == pytest.approx(15 / 11)
