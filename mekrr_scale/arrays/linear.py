"""Least squares on the composition, eigenvalues, and ranks."""

from __future__ import annotations

import scipy.linalg
import torch
from jaxtyping import Float64
from numpy import ndarray
from torch import Tensor


def beyond_composition(
    values: Float64[Tensor, " structures"], counts: Float64[Tensor, "structures species"]
) -> Float64[Tensor, " structures"]:
    """What least squares on the composition (counts, or fractions) leave of energies."""
    solution = torch.linalg.lstsq(counts, values[:, None], driver="gelsd").solution
    left: Tensor = values - (counts @ solution)[:, 0]
    return left


def minimum_norm(
    gram: Float64[Tensor, "species species"], moment: Float64[Tensor, " species"]
) -> Float64[Tensor, " species"]:
    """Least-squares solution of minimum norm, from the normal equations of integer counts."""
    solution: Tensor = torch.linalg.pinv(gram, hermitian=True, rtol=1e-13) @ moment
    return solution


def eigh(matrix: Float64[Tensor, "n n"]) -> tuple[Float64[Tensor, " n"], Float64[Tensor, "n n"]]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix.

    On CPUs by scipy's LAPACK: torch's took twice as long (1000: 0.25 instead of 0.12 s, 2000: 1.85
    instead of 0.90 s on two cores).
    """
    if matrix.device.type != "cpu" or len(matrix) == 1:  # scipy before 1.14 asks LAPACK wrongly for one
        return tuple(torch.linalg.eigh(matrix))
    w, v = scipy.linalg.eigh(matrix.numpy(), driver="evd", check_finite=False)
    # copies, since numpy's memory is not aligned: products with it would differ in their last bits from run to run
    return torch.from_numpy(w).clone(), torch.from_numpy(v).clone()


def rank_correlation(a: Float64[ndarray, " n"], b: Float64[ndarray, " n"]) -> float:
    """Spearman's; NaN where one of them is constant."""
    from scipy.stats import spearmanr  # takes a second to load, which predictions do not need

    return float(spearmanr(a, b).statistic)
