"""Atom kernels, species mixing and set kernels, with their derivative rows."""

from mekrr_scale.arrays import Landmarks
from mekrr_scale.kernels.atom import (
    KERNEL_NAMES,
    AtomKernel,
    Gaussian,
    GaussianSum,
    Linear,
    Matern32,
    Matern52,
    Polynomial,
    atom_kernel,
)
from mekrr_scale.kernels.mixing import SpeciesMixing
from mekrr_scale.kernels.sets import SetKernel

__all__ = [
    "KERNEL_NAMES",
    "AtomKernel",
    "Gaussian",
    "GaussianSum",
    "Landmarks",
    "Linear",
    "Matern32",
    "Matern52",
    "Polynomial",
    "SetKernel",
    "SpeciesMixing",
    "atom_kernel",
]
