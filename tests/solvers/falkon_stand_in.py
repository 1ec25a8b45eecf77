"""What the falkon library (0.9.0) asks of a kernel, in its order and its pieces; no more of it than that.

Seen of the real one: blocks of rows of either list against all of the other, K(centres, centres) for the
preconditioner, K(centres, X) y for the right-hand side and K(centres, X) K(X, centres) v in every iteration, all of
it under ``inference_mode``, into outputs that are parts of larger ones.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType

import torch

ROWS = 7  # of a block


@dataclass
class FalkonOptions:
    use_cpu: bool = True
    store_kernel_d_threshold: int = 1200


class Kernel:
    asked: set[str]

    def __init__(self, name, options):
        self.name, self.params = name, options
        self.asked = set()

    def __call__(self, first, second, opt=None):
        found = torch.full((len(second), len(first)), torch.nan, dtype=first.dtype).T  # the library's is in columns
        for a in range(0, len(first), ROWS):
            b = min(a + ROWS, len(first))
            self.compute(first[a:b], second, found[a:b], diag=False)
        return found

    def mmv(self, first, second, vectors, opt=None):
        total = torch.zeros(len(first), vectors.shape[1], dtype=vectors.dtype)
        buffer = torch.empty(ROWS * ROWS, dtype=vectors.dtype)
        for a in range(0, len(first), ROWS):
            b = min(a + ROWS, len(first))
            for c in range(0, len(second), ROWS):
                d = min(c + ROWS, len(second))
                block = buffer[: (b - a) * (d - c)].view(b - a, d - c)
                total[a:b] += self.compute(first[a:b], second[c:d], block, diag=False) @ vectors[c:d]
        return total


class FixedSelector:
    def __init__(self, centers, y_centers=None, idx_centers=None):
        self.centers = centers


class Falkon:
    def __init__(self, kernel, penalty, M, center_selection, maxiter=20, seed=None, options=None):  # noqa: N803
        assert len(center_selection.centers) == M
        self.kernel, self.penalty, self.centres, self.steps = kernel, penalty, center_selection.centers, maxiter

    def fit(self, X, Y):  # noqa: N803
        """Conjugate gradients on (K_MN K_NM / n + penalty K_MM) alpha = K_MN Y / n, whitened by K_MM."""
        with torch.inference_mode():
            centres, n = self.centres, len(X)
            w, v = torch.linalg.eigh(self.kernel(centres, centres))
            basis = v[:, w > 1e-13 * w[-1]] / w[w > 1e-13 * w[-1]].sqrt()
            right = basis.T @ self.kernel.mmv(centres, X, Y / n)
            beta, direction = torch.zeros_like(right), right.clone()
            residual = right.clone()
            for _ in range(max(self.steps, 200)):
                seen = self.kernel.mmv(X, centres, basis @ direction)
                image = basis.T @ self.kernel.mmv(centres, X, seen / n) + self.penalty * direction
                length = residual.square().sum() / (direction * image).sum().clamp_min(1e-300)
                beta = beta + length * direction
                fresh = residual - length * image
                direction = fresh + fresh.square().sum() / residual.square().sum().clamp_min(1e-300) * direction
                residual = fresh
            self.alpha_ = basis @ beta
        return self

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
