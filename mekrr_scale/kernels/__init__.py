"""Atom kernels, transforms of features, species mixing, set kernels with their derivative rows, and the head.

A new atom kernel is a file beside ``gaussian``, its class in the tables here, and its test.
"""

from typing import TYPE_CHECKING

import lazy_loader as lazy

from mekrr_scale.deprecated import with_old_names

KERNELS: dict[str, str] = {
    "gaussian": "Gaussian",
    "matern32": "Matern32",
    "matern52": "Matern52",
    "gaussian-sum": "GaussianSum",
    "linear": "Linear",
    "polynomial": "Polynomial",
}  # what plans and model files call a kernel: its class
KERNEL_NAMES = tuple(KERNELS)

if TYPE_CHECKING:
    from mekrr_scale.kernels.atom import AtomKernel as AtomKernel
    from mekrr_scale.kernels.atom import atom_kernel as atom_kernel
    from mekrr_scale.kernels.channels import Channels as Channels
    from mekrr_scale.kernels.choices import Reduce as Reduce
    from mekrr_scale.kernels.choices import Standardize as Standardize
    from mekrr_scale.kernels.conformance import check_kernel as check_kernel
    from mekrr_scale.kernels.exponentials import exponential as exponential
    from mekrr_scale.kernels.gaussian import Gaussian as Gaussian
    from mekrr_scale.kernels.gaussian import GaussianSum as GaussianSum
    from mekrr_scale.kernels.head import Head as Head
    from mekrr_scale.kernels.linear import Linear as Linear
    from mekrr_scale.kernels.matern import Matern32 as Matern32
    from mekrr_scale.kernels.matern import Matern52 as Matern52
    from mekrr_scale.kernels.mixing import SpeciesMixing as SpeciesMixing
    from mekrr_scale.kernels.polynomial import Polynomial as Polynomial
    from mekrr_scale.kernels.prepared import Prepared as Prepared
    from mekrr_scale.kernels.sets import SetKernel as SetKernel
    from mekrr_scale.kernels.transforms import Transform as Transform
    from mekrr_scale.kernels.transforms import fit_transform as fit_transform
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "atom": ["AtomKernel", "atom_kernel"],
            "channels": ["Channels"],
            "choices": ["Reduce", "Standardize"],
            "conformance": ["check_kernel"],
            "exponentials": ["exponential"],
            "gaussian": ["Gaussian", "GaussianSum"],
            "head": ["Head"],
            "linear": ["Linear"],
            "matern": ["Matern32", "Matern52"],
            "mixing": ["SpeciesMixing"],
            "polynomial": ["Polynomial"],
            "prepared": ["Prepared"],
            "sets": ["SetKernel"],
            "transforms": ["Transform", "fit_transform"],
        },
    )
    __getattr__ = with_old_names(__name__, __getattr__)
