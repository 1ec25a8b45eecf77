"""Stores to a model: the plan, the search among candidates, held-out errors, calibration, what it takes."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.pipeline.fitting.calibration import calibrate as calibrate
    from mekrr_scale.pipeline.fitting.costs import Resources as Resources
    from mekrr_scale.pipeline.fitting.costs import estimate as estimate
    from mekrr_scale.pipeline.fitting.costs import resources as resources
    from mekrr_scale.pipeline.fitting.data import FitData as FitData
    from mekrr_scale.pipeline.fitting.identity import flat_plan as flat_plan
    from mekrr_scale.pipeline.fitting.identity import identity_text as identity_text
    from mekrr_scale.pipeline.fitting.outliers import Outlier as Outlier
    from mekrr_scale.pipeline.fitting.plan import BaselinePlan as BaselinePlan
    from mekrr_scale.pipeline.fitting.plan import FitPlan as FitPlan
    from mekrr_scale.pipeline.fitting.plan import KernelPlan as KernelPlan
    from mekrr_scale.pipeline.fitting.plan import LandmarkPlan as LandmarkPlan
    from mekrr_scale.pipeline.fitting.plan import RowPlan as RowPlan
    from mekrr_scale.pipeline.fitting.plan import Validation as Validation
    from mekrr_scale.pipeline.fitting.plan import section_of as section_of
    from mekrr_scale.pipeline.fitting.report import Comparison as Comparison
    from mekrr_scale.pipeline.fitting.report import FitReport as FitReport
    from mekrr_scale.pipeline.fitting.report import Tried as Tried
    from mekrr_scale.pipeline.fitting.run import compare as compare
    from mekrr_scale.pipeline.fitting.run import fit as fit
    from mekrr_scale.pipeline.fitting.values import LengthScale as LengthScale
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "calibration": ["calibrate"],
            "data": ["FitData"],
            "identity": ["flat_plan", "identity_text"],
            "outliers": ["Outlier"],
            "plan": [
                "BaselinePlan",
                "FitPlan",
                "KernelPlan",
                "LandmarkPlan",
                "RowPlan",
                "Validation",
                "section_of",
            ],
            "report": ["Comparison", "FitReport", "Tried"],
            "costs": ["Resources", "estimate", "resources"],
            "run": ["compare", "fit"],
            "values": ["LengthScale"],
        },
    )
