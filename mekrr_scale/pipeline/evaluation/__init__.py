"""Errors of a model on labelled structures and stores, and predictions for others."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.pipeline.evaluation.prediction import predict as predict
    from mekrr_scale.pipeline.evaluation.report import Evaluation as Evaluation
    from mekrr_scale.pipeline.evaluation.report import parity_of_folds as parity_of_folds
    from mekrr_scale.pipeline.evaluation.run import evaluate as evaluate
    from mekrr_scale.pipeline.evaluation.sets import SetErrors as SetErrors
    from mekrr_scale.pipeline.evaluation.shifts import Shift as Shift
    from mekrr_scale.pipeline.evaluation.stores import evaluate_store as evaluate_store
    from mekrr_scale.pipeline.evaluation.transfers import TransferTable as TransferTable
    from mekrr_scale.pipeline.evaluation.transfers import shifted_rmse as shifted_rmse
    from mekrr_scale.pipeline.evaluation.transfers import transfer_table as transfer_table
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "prediction": ["predict"],
            "report": ["Evaluation", "parity_of_folds"],
            "run": ["evaluate"],
            "sets": ["SetErrors"],
            "shifts": ["Shift"],
            "stores": ["evaluate_store"],
            "transfers": ["TransferTable", "shifted_rmse", "transfer_table"],
        },
    )
