"""The plane in which features are shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64
from numpy import ndarray


@dataclass(frozen=True)
class Plane:
    """The largest principal components of centred features (Pearson 1901)."""

    mean: Float64[ndarray, " dim"]
    axes: Float64[ndarray, "dim 2"]
    explained: tuple[float, float]  # parts of the variance

    @classmethod
    def of(cls, features: Float[ndarray, "atoms dim"]) -> Plane | None:
        """None of fewer than three atoms."""
        if len(features) < 3 or features.shape[1] < 2:
            return None
        mean = features.mean(0, dtype=np.float64)
        values, vectors = np.linalg.eigh(np.cov(features - mean, rowvar=False))
        axes = vectors[:, [-1, -2]]
        axes = axes * np.sign(axes[np.abs(axes).argmax(0), [0, 1]])  # a sign of its own, whatever the library
        whole = max(float(values.clip(0).sum()), np.finfo(float).tiny)
        return cls(mean, axes, (float(values[-1] / whole), float(max(values[-2], 0.0) / whole)))

    def at(self, features: Float[ndarray, "atoms dim"]) -> Float64[ndarray, "atoms 2"]:
        """Places in the plane."""
        return np.asarray((features - self.mean) @ self.axes)
