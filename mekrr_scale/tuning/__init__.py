"""A data set to its best model within a time: a race of features, then kernel and landmarks for the winner."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.tuning.plan import TunePlan as TunePlan
    from mekrr_scale.tuning.plan import parse_seconds as parse_seconds
    from mekrr_scale.tuning.report import TuneReport as TuneReport
    from mekrr_scale.tuning.run import tune as tune
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={"plan": ["TunePlan", "parse_seconds"], "report": ["TuneReport"], "run": ["tune"]},
    )
