"""Random problems that tests of solvers share."""

import torch

from mekrr_scale.arrays import ByKind
from mekrr_scale.kernels import Gaussian, SetKernel, SpeciesMixing, fit_transform
from mekrr_scale.landmarks import Uniform, WholeStructures
from mekrr_scale.models import fit_baseline
from mekrr_scale.regression import (
    ENERGY_ALONE,
    Basis,
    Precision,
    Problem,
    Source,
    assign_folds,
)
from tests import reference


def weighted(*values):
    """Weights of energy, force and stress rows; those left out are zero."""
    return ByKind.from_list(values, 0.0)


def made(seed=0, n=40, alpha=0.4, reduce="sum", singletons=0, folds=4, tangents=False, cut=1e-11, weights=()):
    """A problem on random ragged sets, and where its rows come from: one batch."""
    whole = reference.random_batch(seed, n_structures=n)
    if tangents:
        whole, _ = reference.with_tangents(whole, seed + 1)
    kernel = SetKernel(Gaussian(1.6), SpeciesMixing(alpha), reduce, fit_transform([whole], "centre"))
    selection = Uniform(singletons) if singletons else WholeStructures()
    problem = Problem(
        kernel,
        selection.select([whole], kernel),
        fit_baseline([whole], "composition"),
        assign_folds([whole], folds) if folds else None,
        weights=weights or (ENERGY_ALONE,),
        criterion=ENERGY_ALONE,
        basis=Basis(cut),
        precision=Precision(derivative=torch.float64),
    )
    return problem, Source([whole], [whole] if tangents else None)


def rows_of(problem, seed=99, n=10):
    """The rows of new structures, to compare predictions by."""
    return problem.kernel.rows(reference.random_batch(seed, n_structures=n), problem.landmarks)
