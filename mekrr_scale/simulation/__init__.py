"""What is done with a fitted model: dynamics, relaxation, choosing structures, taking predictions apart."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.simulation.bounds import Bounds as Bounds
    from mekrr_scale.simulation.bounds import frame_with as frame_with
    from mekrr_scale.simulation.choices import Ensemble as Ensemble
    from mekrr_scale.simulation.choices import SelectionMethod as SelectionMethod
    from mekrr_scale.simulation.courses import MdCourse as MdCourse
    from mekrr_scale.simulation.courses import RelaxCourse as RelaxCourse
    from mekrr_scale.simulation.courses import relaxation_axes as relaxation_axes
    from mekrr_scale.simulation.dynamics import MdPlan as MdPlan
    from mekrr_scale.simulation.dynamics import MdReport as MdReport
    from mekrr_scale.simulation.dynamics import run_md as run_md
    from mekrr_scale.simulation.explanation import Explanation as Explanation
    from mekrr_scale.simulation.explanation import explain as explain
    from mekrr_scale.simulation.explanation import explained as explained
    from mekrr_scale.simulation.explanation import totals as totals
    from mekrr_scale.simulation.relaxation import relax as relax
    from mekrr_scale.simulation.restarts import RestartFile as RestartFile
    from mekrr_scale.simulation.selection import Selection as Selection
    from mekrr_scale.simulation.selection import choose as choose
    from mekrr_scale.simulation.selection import select as select
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "bounds": ["Bounds", "frame_with"],
            "choices": ["Ensemble", "SelectionMethod"],
            "courses": ["MdCourse", "RelaxCourse", "relaxation_axes"],
            "dynamics": ["MdPlan", "MdReport", "run_md"],
            "explanation": ["Explanation", "explain", "explained", "totals"],
            "relaxation": ["relax"],
            "restarts": ["RestartFile"],
            "selection": ["Selection", "choose", "select"],
        },
    )
