"""What each rank of a small job checks; test_ranks.py starts it with a store and its structures on every rank.

Whatever the ranks make together is compared, on every rank, with what one process makes alone.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from mekrr_scale.arrays import RowKind
from mekrr_scale.distributed import ALONE, ExactSum, Group, PanelGram, join, panels_of
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, fit_transform
from mekrr_scale.landmarks import Displaced, FarthestPoint, LeverageScores, Uniform, WholeStructures, median_distance
from mekrr_scale.models import Model, fit_baseline, whiten
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan, RowPlan, Validation, evaluate, evaluate_store, fit
from mekrr_scale.regression import Execution, assign_folds
from mekrr_scale.solvers import Direct, Falkon, PanelPreconditioner, direct_work, preconditioners
from mekrr_scale.store import FeatureStore, deal
from mekrr_scale.structures import read_structures

RIDGES = (1e-8, 1e-6, 1e-4)
PLAN = FitPlan(
    kernel=KernelPlan(length_scales="2x", standardize="scale-per-species"),
    landmarks=LandmarkPlan(count=60),
    baseline="composition",
    rows=RowPlan(weights={"force": 1e-2}),
    solver=Direct(RIDGES),
    validation=3,
)


def check_collectives(group: Group) -> None:
    mine = torch.full((group.rank, 2), float(group.rank))
    assert [len(part) for part in group.gather(mine)] == list(range(group.size))
    assert group.gather_json({"rank": group.rank}) == [{"rank": r} for r in range(group.size)]
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(7, 3, generator=generator, dtype=torch.float64) * 10.0 ** (5 * i - 20) for i in range(9)]
    alone, together = ExactSum(7, 3), ExactSum(7, 3)
    for i, part in enumerate(parts):
        alone.add(part.clone())
        owner = i % group.size if i % group.size < 2 else 0  # ranks above the second have nothing
        if owner == group.rank:
            together.add(part.clone())
    assert torch.equal(together.value(group), alone.value())


def check_panels(group: Group) -> None:
    """Block-cyclic Cholesky against LAPACK, and equal bits for any number of ranks."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(90, 53, generator=generator, dtype=torch.float64)
    right = torch.randn(53, 4, generator=generator, dtype=torch.float64)
    gram, alone = PanelGram(53, group, width=8), PanelGram(53, width=8)
    for i, block in enumerate(rows.split(10)):
        alone.add(block)
        if i % group.size == group.rank:
            gram.add(block)
    matrix, lonely = gram.finish(), alone.finish()
    dense = rows.T @ rows
    torch.testing.assert_close(matrix.product(right), dense @ right, rtol=1e-12, atol=1e-12)
    assert torch.equal(matrix.product(right), lonely.product(right))
    dense.diagonal().add_(0.3)
    found = matrix.copy().shift(0.3).cholesky().solve(right)
    torch.testing.assert_close(found, torch.linalg.solve(dense, right), rtol=1e-9, atol=1e-12)
    assert torch.equal(found, lonely.shift(0.3).cholesky().solve(right))
    lower = torch.linalg.cholesky(dense)
    factor = panels_of(dense, group, 8).cholesky()
    for k, (a, b) in enumerate(factor.bounds):
        if k in factor.panels:
            torch.testing.assert_close(factor.panels[k], lower[a:, a:b], rtol=1e-10, atol=1e-12)
    ridges = torch.tensor([0.3, 3.0, 40.0, 0.3], dtype=torch.float64)
    inverse = PanelPreconditioner.of(matrix, ridges)
    eye = torch.eye(53, dtype=torch.float64)
    exact = torch.stack([torch.linalg.solve(rows.T @ rows + r * eye, right[:, 0]) for r in (0.3, 40.0)], 1)
    applied = inverse.apply(right[:, :1].expand(-1, 4).contiguous())
    torch.testing.assert_close(applied[:, [0, 2]], exact, rtol=1e-9, atol=1e-12)


def check_choices(group: Group, path: Path) -> None:
    """Statistics, landmarks, folds and whitening: the same as of one process, bit by bit."""
    whole = replace(FeatureStore(path), tangents=True)
    (part,) = deal([whole], group.rank, group.size)
    kernel = SetKernel(
        Gaussian(2.0), SpeciesMixing(1.0), "sum", fit_transform(part, "scale-per-species", group, next(iter(whole)))
    )
    alone = fit_transform(whole, "scale-per-species")
    assert torch.equal(kernel.transform.mean, alone.mean)
    assert torch.equal(kernel.transform.scale, alone.scale)
    assert torch.equal(
        fit_baseline(part, "composition", group=group).energies, fit_baseline(whole, "composition").energies
    )
    assert median_distance(part, kernel.transform, 0, group=group) == median_distance(whole, kernel.transform, 0)
    selections = (
        Uniform(30),
        FarthestPoint(20, pool=3),
        LeverageScores(20, pool=3),
        Displaced(400),
        WholeStructures(9),
    )
    for selection in selections:
        found, expected = selection.select(part, kernel, group), selection.select(whole, kernel)
        assert torch.equal(found.features, expected.features), selection
        assert torch.equal(found.species, expected.species)
        assert torch.equal(found.owner, expected.owner)
    folds, expected = assign_folds(part, 3, group), assign_folds(whole, 3)
    assert (folds.keys == expected.keys).all()
    assert (folds.parts == expected.parts).all()
    landmarks = Uniform(30).select(whole, kernel)
    makers = kernel.gram_block_makers(landmarks)
    for mine, other in zip(whiten(makers, group=group).blocks, whiten(makers).blocks, strict=True):
        assert torch.equal(mine.matrix, other.matrix)


def check_fits(group: Group, path: Path) -> Model:
    """Whole fits: Falkon bit by bit, Direct to 1e-8; uncertainties, cross-validation and evaluation."""
    falkon = replace(PLAN, solver=Falkon(RIDGES, rtol=1e-12, max_steps=60))
    # the second keeps most rows in a scratch file
    for plan in (falkon, replace(falkon, execution=Execution(memory=100_000))):
        together, alone = fit(path, plan, group=group), fit(path, plan)
        assert torch.equal(together.model.coefficients, alone.model.coefficients)
        assert repr(together.solution.path) == repr(alone.solution.path)  # NaN of kinds without rows
        assert together.solution.effort.iterations == alone.solution.effort.iterations
        assert together.solution.effort.rows == alone.solution.effort.rows
    together, alone = fit([path, path], PLAN, group=group), fit([path, path], PLAN)
    assert list(together.stores) == list(alone.stores) == [f"{path} (1)", f"{path} (2)"]
    for ours, its in zip(together.stores.values(), alone.stores.values(), strict=True):
        assert {kind: each.count for kind, each in ours.items()} == {kind: each.count for kind, each in its.items()}
        assert all(abs(ours[kind].rmse / its[kind].rmse - 1) < 1e-6 for kind in its)
    for plan in (PLAN, replace(PLAN, kernel=KernelPlan(length_scales="2x", alphas=(0.3, 1.0)))):
        together, alone = fit(path, plan, group=group), fit(path, plan)
        assert together.solution.ridges == alone.solution.ridges
        store = FeatureStore(path)
        pairs = [(together.model.energies(batch), alone.model.energies(batch)) for batch in store]
        found, expected = (torch.cat(side) for side in zip(*pairs, strict=True))
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
        assert together.model.posterior is not None
        assert alone.model.posterior is not None
        assert abs(together.model.posterior.energy.within_68 / alone.model.posterior.energy.within_68 - 1) < 1e-4
        assert together.model.posterior.sets is not None
        assert alone.model.posterior.sets is not None
        for name in ("within_95", "typical", "limit"):
            ours, its = (getattr(fitted.model.posterior.sets, name) for fitted in (together, alone))
            assert abs(ours / its - 1) < 1e-4
        for name in ("energy_mae", "energy_rmse"):
            assert abs(together.model.validation[name] / alone.model.validation[name] - 1) < 1e-6
    growing = replace(PLAN, landmarks=LandmarkPlan(count=30, grow_to=60), validation=Validation(3, uncertainty=False))
    grown, alone = fit(path, growing, group=group), fit(path, growing)
    assert [step.landmarks for step in grown.growth] == [step.landmarks for step in alone.growth] == [30, 60]
    assert abs(grown.growth[1].line.rmse[RowKind.ENERGY] / alone.growth[1].line.rmse[RowKind.ENERGY] - 1) < 1e-6
    mine = evaluate_store(together.model, store, group=group).metrics()
    for name, value in evaluate_store(together.model, store).metrics().items():
        assert abs(mine[name] - value) <= 1e-9 * abs(value)
    bits = together.model.coefficients.view(torch.int64)
    assert int(group.maximum(bits.clone()).eq(bits).all())  # every rank has the same model
    return together.model


def check_evaluation(group: Group, model: Model, file: Path) -> None:
    """On a file of structures: each rank predicts its own, and all know the errors of all."""
    alone = evaluate(model, read_structures(file), uncertainty=True)
    for structures in (read_structures(file), list(read_structures(file))[:1]):  # one structure: ranks with nothing
        found = evaluate(model, structures, uncertainty=True, group=group)
        assert len(set(group.gather_json(found.metrics()["energy_rmse"]))) == 1
        if len(found.energy) == 1:
            assert found.metrics()["structures"] == 1
            continue
        assert sorted(found.energy.tolist()) == sorted(alone.energy.tolist())
        assert abs(found.mean_within_95[0] / alone.mean_within_95[0] - 1) < 1e-6
        assert (found.limit, found.whole().unlike) == (alone.limit, alone.whole().unlike)
        assert found.forces.shape == alone.forces.shape
        owner, atoms = found.force_owner(), found.n_atoms.tolist()
        assert owner.tolist() == [place for place, number in enumerate(atoms) for _ in range(number)]
        for name, value in {**alone.metrics(), **alone.coverage()}.items():
            assert abs({**found.metrics(), **found.coverage()}[name] - value) <= 1e-5 * abs(value), name


def check_large(group: Group, path: Path) -> None:
    """With a low limit, Gram matrices in panels over the ranks: the same bits, and Direct's predictions."""
    validation = Validation(folds=3, uncertainty=False)
    usual = fit(path, replace(PLAN, validation=validation))
    direct_work.LARGEST_EIGEN = preconditioners.LARGEST_EIGEN = 20
    for solver in (Falkon(RIDGES, rtol=1e-12, max_steps=400, patience=100), Direct(RIDGES)):
        plan = replace(PLAN, solver=solver, validation=validation)
        together, alone = fit(path, plan, group=group), fit(path, plan)
        assert torch.equal(together.model.coefficients, alone.model.coefficients)
        assert together.solution.ridges[0] == usual.solution.ridges[0]
        for batch in FeatureStore(path):
            found, expected = together.model.energies(batch), usual.model.energies(batch)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def main() -> None:
    torch.set_num_threads(1)
    group = join(30)
    assert group.size > ALONE.size
    path = Path(sys.argv[1])
    check_collectives(group)
    check_panels(group)
    check_choices(group, path)
    check_evaluation(group, check_fits(group, path), Path(sys.argv[2]))
    check_large(group, path)
    group.barrier()
    group.leave()


if __name__ == "__main__":
    main()
