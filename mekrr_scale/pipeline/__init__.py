"""The stages of the main job as functions: extract, fit, evaluate, predict."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.pipeline.evaluation import Evaluation as Evaluation
    from mekrr_scale.pipeline.evaluation import TransferTable as TransferTable
    from mekrr_scale.pipeline.evaluation import evaluate as evaluate
    from mekrr_scale.pipeline.evaluation import evaluate_store as evaluate_store
    from mekrr_scale.pipeline.evaluation import parity_of_folds as parity_of_folds
    from mekrr_scale.pipeline.evaluation import predict as predict
    from mekrr_scale.pipeline.evaluation import shifted_rmse as shifted_rmse
    from mekrr_scale.pipeline.evaluation import transfer_table as transfer_table
    from mekrr_scale.pipeline.extraction import ExtractPlan as ExtractPlan
    from mekrr_scale.pipeline.extraction import ExtractReport as ExtractReport
    from mekrr_scale.pipeline.extraction import extract as extract
    from mekrr_scale.pipeline.fitting import BaselinePlan as BaselinePlan
    from mekrr_scale.pipeline.fitting import Comparison as Comparison
    from mekrr_scale.pipeline.fitting import FitData as FitData
    from mekrr_scale.pipeline.fitting import FitPlan as FitPlan
    from mekrr_scale.pipeline.fitting import FitReport as FitReport
    from mekrr_scale.pipeline.fitting import KernelPlan as KernelPlan
    from mekrr_scale.pipeline.fitting import LandmarkPlan as LandmarkPlan
    from mekrr_scale.pipeline.fitting import LengthScale as LengthScale
    from mekrr_scale.pipeline.fitting import Outlier as Outlier
    from mekrr_scale.pipeline.fitting import Resources as Resources
    from mekrr_scale.pipeline.fitting import RowPlan as RowPlan
    from mekrr_scale.pipeline.fitting import Tried as Tried
    from mekrr_scale.pipeline.fitting import Validation as Validation
    from mekrr_scale.pipeline.fitting import compare as compare
    from mekrr_scale.pipeline.fitting import estimate as estimate
    from mekrr_scale.pipeline.fitting import fit as fit
    from mekrr_scale.pipeline.fitting import flat_plan as flat_plan
    from mekrr_scale.pipeline.fitting import identity_text as identity_text
    from mekrr_scale.pipeline.fitting import resources as resources
    from mekrr_scale.pipeline.fitting import section_of as section_of
    from mekrr_scale.pipeline.workers import Workers as Workers
    from mekrr_scale.pipeline.workers import atoms_at_once as atoms_at_once
    from mekrr_scale.pipeline.workers import processes as processes
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "evaluation": [
                "Evaluation",
                "TransferTable",
                "evaluate",
                "evaluate_store",
                "parity_of_folds",
                "predict",
                "shifted_rmse",
                "transfer_table",
            ],
            "extraction": ["ExtractPlan", "ExtractReport", "extract"],
            "fitting": [
                "BaselinePlan",
                "Comparison",
                "FitData",
                "FitPlan",
                "FitReport",
                "KernelPlan",
                "LandmarkPlan",
                "LengthScale",
                "Outlier",
                "Resources",
                "RowPlan",
                "Tried",
                "Validation",
                "compare",
                "estimate",
                "fit",
                "flat_plan",
                "identity_text",
                "resources",
                "section_of",
            ],
            "workers": ["Workers", "atoms_at_once", "processes"],
        },
    )
