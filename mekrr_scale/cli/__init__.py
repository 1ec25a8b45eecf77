"""The command line ``mekrr-scale``, and the batch scripts that it writes."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.cli.app import main as main
    from mekrr_scale.cli.batch_scripts import Batch as Batch
    from mekrr_scale.cli.batch_scripts import extract_script as extract_script
    from mekrr_scale.cli.batch_scripts import finalize_script as finalize_script
    from mekrr_scale.cli.batch_scripts import fit_script as fit_script
    from mekrr_scale.cli.ending import told as told
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "app": ["main"],
            "batch_scripts": ["Batch", "extract_script", "finalize_script", "fit_script"],
            "ending": ["told"],
        },
    )
