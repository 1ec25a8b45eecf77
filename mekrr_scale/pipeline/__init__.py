"""The stages of the main job as functions: extract, fit, evaluate, predict."""

from mekrr_scale.pipeline.evaluate import Evaluation, evaluate, evaluate_store, predict
from mekrr_scale.pipeline.extract import ExtractPlan, ExtractReport, extract
from mekrr_scale.pipeline.fit import FitPlan, FitReport, LengthScale, fit

__all__ = [
    "Evaluation",
    "ExtractPlan",
    "ExtractReport",
    "FitPlan",
    "FitReport",
    "LengthScale",
    "evaluate",
    "evaluate_store",
    "extract",
    "fit",
    "predict",
]
