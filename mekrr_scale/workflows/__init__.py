"""What strings the stages together: the loop of exploring, choosing, labelling and fitting."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.workflows.learning import learn as learn
    from mekrr_scale.workflows.plan import ExplorePlan as ExplorePlan
    from mekrr_scale.workflows.plan import LearnPlan as LearnPlan
    from mekrr_scale.workflows.report import LearnReport as LearnReport
    from mekrr_scale.workflows.toml import load_learn_plan as load_learn_plan
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "learning": ["learn"],
            "plan": ["ExplorePlan", "LearnPlan"],
            "report": ["LearnReport"],
            "toml": ["load_learn_plan"],
        },
    )
