"""The stages of the main job as functions: extract, fit, evaluate, predict."""

from mekrr_scale.pipeline.evaluate import Evaluation, evaluate, evaluate_store, predict
from mekrr_scale.pipeline.extract import ExtractPlan, ExtractReport, extract
from mekrr_scale.pipeline.fit import FitReport, fit
from mekrr_scale.pipeline.plan import FitPlan, LandmarkMethod, LengthScale
from mekrr_scale.pipeline.resources import Resources, resources

__all__ = [
    "Evaluation",
    "ExtractPlan",
    "ExtractReport",
    "FitPlan",
    "FitReport",
    "LandmarkMethod",
    "LengthScale",
    "Resources",
    "evaluate",
    "evaluate_store",
    "extract",
    "fit",
    "predict",
    "resources",
]
