"""Labels of structures by any calculator of ASE's: an experiment's reference, resumable, side by side."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.labelling.calculators import CalculatorSpec as CalculatorSpec
    from mekrr_scale.labelling.journal import journal_beside as journal_beside
    from mekrr_scale.labelling.report import LabelReport as LabelReport
    from mekrr_scale.labelling.run import label as label
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "calculators": ["CalculatorSpec"],
            "journal": ["journal_beside"],
            "report": ["LabelReport"],
            "run": ["label"],
        },
    )
