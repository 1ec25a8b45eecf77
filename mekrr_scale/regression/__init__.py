"""What is solved: problem, sources, rows (stored, kept, matrix-free), weights, folds; and how a job runs."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.regression.blocks import ChainedRows as ChainedRows
    from mekrr_scale.regression.blocks import ListedRows as ListedRows
    from mekrr_scale.regression.blocks import RowBlock as RowBlock
    from mekrr_scale.regression.blocks import RowMap as RowMap
    from mekrr_scale.regression.blocks import Rows as Rows
    from mekrr_scale.regression.criterion import Balanced as Balanced
    from mekrr_scale.regression.criterion import Criterion as Criterion
    from mekrr_scale.regression.criterion import criterion_text as criterion_text
    from mekrr_scale.regression.criterion import score as score
    from mekrr_scale.regression.execution import Execution as Execution
    from mekrr_scale.regression.folds import Folds as Folds
    from mekrr_scale.regression.folds import assign_folds as assign_folds
    from mekrr_scale.regression.folds import refit_shift as refit_shift
    from mekrr_scale.regression.kept import KeptRows as KeptRows
    from mekrr_scale.regression.kept import packed_width as packed_width
    from mekrr_scale.regression.maps import ForceMap as ForceMap
    from mekrr_scale.regression.maps import ModeCosts as ModeCosts
    from mekrr_scale.regression.metrics import UNITS as UNITS
    from mekrr_scale.regression.metrics import Errors as Errors
    from mekrr_scale.regression.problem import DEFAULT_CRITERION as DEFAULT_CRITERION
    from mekrr_scale.regression.problem import ENERGY_ALONE as ENERGY_ALONE
    from mekrr_scale.regression.problem import Problem as Problem
    from mekrr_scale.regression.run import Run as Run
    from mekrr_scale.regression.source import LabelledStructure as LabelledStructure
    from mekrr_scale.regression.source import Source as Source
    from mekrr_scale.regression.source import Structures as Structures
    from mekrr_scale.regression.terms import Basis as Basis
    from mekrr_scale.regression.terms import Precision as Precision
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "blocks": ["ChainedRows", "ListedRows", "RowBlock", "RowMap", "Rows"],
            "criterion": ["Balanced", "Criterion", "criterion_text", "score"],
            "execution": ["Execution"],
            "folds": ["Folds", "assign_folds", "refit_shift"],
            "kept": ["KeptRows", "packed_width"],
            "maps": ["ForceMap", "ModeCosts"],
            "metrics": ["UNITS", "Errors"],
            "problem": ["DEFAULT_CRITERION", "ENERGY_ALONE", "Problem"],
            "run": ["Run"],
            "source": ["LabelledStructure", "Source", "Structures"],
            "terms": ["Basis", "Precision"],
        },
    )
