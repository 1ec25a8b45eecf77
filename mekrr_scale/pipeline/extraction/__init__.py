"""Structures to a feature store: streamed, resumable, in parts."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.pipeline.extraction.plan import ExtractPlan as ExtractPlan
    from mekrr_scale.pipeline.extraction.report import ExtractReport as ExtractReport
    from mekrr_scale.pipeline.extraction.run import extract as extract
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "plan": ["ExtractPlan"],
            "report": ["ExtractReport"],
            "run": ["extract"],
        },
    )
