"""A fitted model in LAMMPS: by its Python library, on one rank, or as a compiled pair style or by ML-IAP, on any."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.engines.lammps.compiling import build as build
    from mekrr_scale.engines.lammps.compiling import built as built
    from mekrr_scale.engines.lammps.external import External as External
    from mekrr_scale.engines.lammps.external import Settings as Settings
    from mekrr_scale.engines.lammps.external import attach as attach
    from mekrr_scale.engines.lammps.library import start as start
    from mekrr_scale.engines.lammps.mliap import MliapModel as MliapModel
    from mekrr_scale.engines.lammps.running import run_input as run_input
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "compiling": ["build", "built"],
            "external": ["External", "Settings", "attach"],
            "library": ["start"],
            "mliap": ["MliapModel"],
            "running": ["run_input"],
        },
    )
