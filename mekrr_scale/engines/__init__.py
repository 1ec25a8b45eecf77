"""A fitted model in other simulation programs, one a file; each is imported when it is asked for."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.engines.ipi import MekrrDriver as MekrrDriver
    from mekrr_scale.engines.lammps import MliapModel as MliapModel
    from mekrr_scale.engines.torch_sim import MekrrModel as MekrrModel
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "ipi": ["MekrrDriver"],
            "lammps": ["MliapModel"],
            "torch_sim": ["MekrrModel"],
        },
    )
