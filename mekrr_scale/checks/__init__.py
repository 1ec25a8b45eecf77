"""Physical tests of a model, one a file: what it measures on a structure, beside the bare backbone and references."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.checks.all import CHECKS as CHECKS
    from mekrr_scale.checks.base import Check as Check
    from mekrr_scale.checks.kinds import StructureKind as StructureKind
    from mekrr_scale.checks.kinds import kind_of as kind_of
    from mekrr_scale.checks.measured import Curve as Curve
    from mekrr_scale.checks.measured import Finding as Finding
    from mekrr_scale.checks.measured import Measured as Measured
    from mekrr_scale.checks.measured import Panel as Panel
    from mekrr_scale.checks.measured import Quantity as Quantity
    from mekrr_scale.checks.quick import quick_check as quick_check
    from mekrr_scale.checks.references import References as References
    from mekrr_scale.checks.references import read_references as read_references
    from mekrr_scale.checks.report import CheckReport as CheckReport
    from mekrr_scale.checks.run import check as check
    from mekrr_scale.checks.thresholds import Thresholds as Thresholds
    from mekrr_scale.checks.thresholds import read_thresholds as read_thresholds
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "all": ["CHECKS"],
            "base": ["Check"],
            "kinds": ["StructureKind", "kind_of"],
            "measured": ["Curve", "Finding", "Measured", "Panel", "Quantity"],
            "quick": ["quick_check"],
            "references": ["References", "read_references"],
            "report": ["CheckReport"],
            "run": ["check"],
            "thresholds": ["Thresholds", "read_thresholds"],
        },
    )
