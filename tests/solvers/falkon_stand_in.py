"""What the falkon library (0.9.0) asks of a kernel, in its order and its pieces; no more of it than that.

Seen of the real one, under ``inference_mode`` and into zeros that are parts of larger arrays, row by row:

* K(centres, centres) for the preconditioner, cut in both directions where memory is short;
* stored: K(X, centres) once; products with it or its transpose, chosen by the length of the vector alone;
* not stored: K(centres, X) for the right-hand side, cut in both directions, and in every iteration
  K(X, centres) by rows of X; for a prediction cut in both directions.

It adds 1e-13 M to the diagonal of K(centres, centres), fails where that has no Cholesky factor, ends where the residual
is below its tolerance (absolute numbers, both), takes the seed for torch's own, and returns inference tensors.
``test_falkon_library`` runs over both, and checks of both what was asked.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from types import ModuleType

import torch


@dataclass
class FalkonOptions:
    use_cpu: bool = True
    never_store_kernel: bool = False
    store_kernel_d_threshold: int = 1200
    max_cpu_mem: float = math.inf
    cg_tolerance: float = 1e-7


def pieces(n, m, entries, whole=False):
    """Ranges of rows and columns of blocks of at most so many numbers; whole rows where asked."""
    width = m if whole else max(1, min(m, math.isqrt(int(min(entries, 2**40)))))
    height = max(1, int(min(n, entries // width)))
    for a in range(0, n, height):
        for c in range(0, m, width):
            yield a, min(a + height, n), c, min(c + width, m)


class Kernel:
    def __init__(self, name, options):
        self.name, self.params = name, options

    @property
    def entries(self):
        return self.params.max_cpu_mem / 8

    def __call__(self, first, second):
        found = torch.zeros(len(first), len(second), dtype=first.dtype)
        for a, b, c, d in pieces(len(first), len(second), self.entries):
            self.compute(first[a:b], second[c:d], found[a:b, c:d], diag=False)
        return found

    def _product(self, first, second, vectors, whole):
        total = torch.zeros(len(first), vectors.shape[1], dtype=vectors.dtype)
        for a, b, c, d in pieces(len(first), len(second), self.entries / 2, whole):
            block = torch.zeros((b - a) * (d - c), dtype=vectors.dtype).view(b - a, d - c)
            total[a:b] += self.compute(first[a:b], second[c:d], block, diag=False) @ vectors[c:d]
        return total

    def mmv(self, first, second, vectors):
        return self._product(first, second, vectors, whole=False)

    def dmmv(self, first, second, vectors):
        """K' K v, from blocks of whole rows."""
        total = torch.zeros_like(vectors)
        for a, b, _, _ in pieces(len(first), len(second), self.entries / 2, whole=True):
            block = torch.zeros(b - a, len(second), dtype=vectors.dtype)
            self.compute(first[a:b], second, block, diag=False)
            total += block.T @ (block @ vectors)
        return total


class Stored:
    """Of K(X, centres) that is at hand."""

    def __init__(self, rows):
        self.rows = rows

    def mmv(self, _first, _second, vectors):
        return (self.rows if self.rows.shape[1] == len(vectors) else self.rows.T) @ vectors  # as the library does

    def dmmv(self, first, second, vectors):
        seen = self.mmv(first, second, vectors)
        return self.rows.T @ seen


class FixedSelector:
    def __init__(self, centers, y_centers=None, idx_centers=None):
        self.centers = centers


class Preconditioner:
    """T' T = K(centres, centres), A' A = T T' / M + penalty."""

    def __init__(self, gram, penalty):
        count = len(gram)
        shifted = gram + 1e-13 * count * torch.eye(count, dtype=gram.dtype)
        lower, info = torch.linalg.cholesky_ex(shifted)
        if int(info):
            raise RuntimeError(f"LAPACK potrf failed with status {int(info)}.")
        self.t = lower.T
        inner = self.t @ lower / count
        inner.diagonal().add_(penalty)
        self.a = torch.linalg.cholesky(inner).T

    def inner(self, v):
        return torch.linalg.solve_triangular(self.a, v, upper=True)

    def apply(self, v):
        return torch.linalg.solve_triangular(self.t, self.inner(v), upper=True)

    def inner_t(self, v):
        return torch.linalg.solve_triangular(self.a.T, v, upper=False)

    def apply_t(self, v):
        return self.inner_t(torch.linalg.solve_triangular(self.t.T, v, upper=False))


class Falkon:
    def __init__(self, kernel, penalty, M, center_selection, maxiter=20, seed=None, options=None):  # noqa: N803
        assert len(center_selection.centers) == M
        if seed is not None:
            torch.manual_seed(seed)
        self.kernel, self.penalty, self.steps, self.options = kernel, penalty, maxiter, options
        self.centres = center_selection.centers

    def fit(self, X, Y):  # noqa: N803
        with torch.inference_mode():
            self.precond = Preconditioner(self.kernel(self.centres, self.centres), self.penalty)
            few = 8 * len(X) * len(self.centres) < 0.9 * self.options.max_cpu_mem
            stored = few and not self.options.never_store_kernel and X.shape[1] > self.options.store_kernel_d_threshold
            kernel = Stored(self.kernel(X, self.centres)) if stored else self.kernel
            right = self.precond.apply_t(kernel.mmv(self.centres, X, Y / len(X)))
            self.alpha_ = self.precond.apply(self._iterate(kernel, X, right))
        return self

    def _image(self, kernel, X, direction):  # noqa: N803
        v = self.precond.inner(direction)
        seen = kernel.dmmv(X, self.centres, self.precond.apply(direction)) / len(X)
        return self.precond.apply_t(seen) + self.precond.inner_t(self.penalty * v)

    def _iterate(self, kernel, X, right):  # noqa: N803
        beta, residual, direction = torch.zeros_like(right), right.clone(), right.clone()
        for step in range(1, self.steps + 1):
            image = self._image(kernel, X, direction)
            before = residual.square().sum()
            length = before / ((direction * image).sum() + 1e-15)
            beta = beta + length * direction
            residual = right - self._image(kernel, X, beta) if step % 10 == 0 else residual - length * image
            if float(residual.norm()) < self.options.cg_tolerance:
                break
            direction = residual + residual.square().sum() / (before + 1e-15) * direction
        return beta

    def predict(self, X):  # noqa: N803
        with torch.inference_mode():
            return self.kernel.mmv(X, self.centres, self.alpha_)


def install(patch) -> None:
    """Put it where the library would be."""
    library, kernels, selection = (ModuleType(n) for n in ("falkon", "falkon.kernels", "falkon.center_selection"))
    kernels.Kernel, selection.FixedSelector = Kernel, FixedSelector
    library.FalkonOptions, library.Falkon = FalkonOptions, Falkon
    library.kernels, library.center_selection = kernels, selection
    for module in (library, kernels, selection):
        patch.setitem(sys.modules, module.__name__, module)
