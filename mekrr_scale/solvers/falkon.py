"""Preconditioned conjugate gradients in the whitened basis, for more landmarks than a Gram matrix can hold."""

from __future__ import annotations

from typing import ClassVar, final

from mekrr_scale import solvers
from mekrr_scale.plans import plan
from mekrr_scale.solvers.krylov import Krylov


@final
@plan
class Falkon(Krylov):
    """Solve for every ridge (and every fold) at once; all share each pass over the rows.

    Falkon (Rudi, Carratino, Rosasco 2017; Meanti, Carratino, Rosasco, Rudi 2020) with two changes
    that sets of atoms ask for: the whitened normal equations, which keep the accuracy of a direct
    solve, and a preconditioner from a random part of the rows, since rows that are sums over sets
    do not look like the landmarks that the classical one assumes. Coefficients are the same bit by
    bit for any number of ranks, and after any restart.
    """

    name: ClassVar[str] = "falkon"

    def method(self) -> solvers.Method:
        """Conjugate gradients."""
        from mekrr_scale.solvers.conjugate_gradients import ConjugateGradients

        return ConjugateGradients()
