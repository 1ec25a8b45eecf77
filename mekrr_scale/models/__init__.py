"""What is left after a fit: baseline, whitening, posterior, the model and its file, potential and ASE calculator."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.models.baselines import Baseline as Baseline
    from mekrr_scale.models.baselines import fit_baseline as fit_baseline
    from mekrr_scale.models.calculator import MekrrCalculator as MekrrCalculator
    from mekrr_scale.models.calculator import PredictorCalculator as PredictorCalculator
    from mekrr_scale.models.calculator import as_calculator as as_calculator
    from mekrr_scale.models.choices import JSON as JSON
    from mekrr_scale.models.choices import BaselineKind as BaselineKind
    from mekrr_scale.models.choices import Document as Document
    from mekrr_scale.models.choices import PriorKind as PriorKind
    from mekrr_scale.models.choices import WhiteningMethod as WhiteningMethod
    from mekrr_scale.models.containing import self_contained as self_contained
    from mekrr_scale.models.described import kernel_text as kernel_text
    from mekrr_scale.models.described import summary as summary
    from mekrr_scale.models.dispersion import Dispersion as Dispersion
    from mekrr_scale.models.dispersion import as_dispersion as as_dispersion
    from mekrr_scale.models.limits import ADVICE as ADVICE
    from mekrr_scale.models.limits import Limits as Limits
    from mekrr_scale.models.limits import require_bound as require_bound
    from mekrr_scale.models.model import Model as Model
    from mekrr_scale.models.model import load_model as load_model
    from mekrr_scale.models.model import sample_document as sample_document
    from mekrr_scale.models.pieces import Images as Images
    from mekrr_scale.models.pieces import PieceResult as PieceResult
    from mekrr_scale.models.pieces import check_pieces as check_pieces
    from mekrr_scale.models.pieces import energy_uncertainty as energy_uncertainty
    from mekrr_scale.models.pieces import evaluate_piece as evaluate_piece
    from mekrr_scale.models.posterior import Calibration as Calibration
    from mekrr_scale.models.posterior import Posterior as Posterior
    from mekrr_scale.models.posterior import RawVariance as RawVariance
    from mekrr_scale.models.posterior import Uncertainty as Uncertainty
    from mekrr_scale.models.posterior import Variances as Variances
    from mekrr_scale.models.posterior import joined_variances as joined_variances
    from mekrr_scale.models.posterior import mean_factor as mean_factor
    from mekrr_scale.models.posterior import posterior_factor as posterior_factor
    from mekrr_scale.models.posterior import raw_variance as raw_variance
    from mekrr_scale.models.potential import Potential as Potential
    from mekrr_scale.models.potential import as_potential as as_potential
    from mekrr_scale.models.potential import load_prior as load_prior
    from mekrr_scale.models.priors import PriorSpec as PriorSpec
    from mekrr_scale.models.sets import PerAtom as PerAtom
    from mekrr_scale.models.sets import SetCalibration as SetCalibration
    from mekrr_scale.models.sets import SetSums as SetSums
    from mekrr_scale.models.whitening import Whitening as Whitening
    from mekrr_scale.models.whitening import WhiteningBlock as WhiteningBlock
    from mekrr_scale.models.whitening import whiten as whiten
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "limits": ["ADVICE", "Limits", "require_bound"],
            "described": ["kernel_text", "summary"],
            "containing": ["self_contained"],
            "baselines": ["Baseline", "fit_baseline"],
            "calculator": ["MekrrCalculator", "PredictorCalculator", "as_calculator"],
            "choices": ["BaselineKind", "Document", "JSON", "PriorKind", "WhiteningMethod"],
            "dispersion": ["Dispersion", "as_dispersion"],
            "model": ["Model", "load_model", "sample_document"],
            "pieces": ["Images", "PieceResult", "check_pieces", "energy_uncertainty", "evaluate_piece"],
            "posterior": [
                "Calibration",
                "Posterior",
                "RawVariance",
                "Uncertainty",
                "Variances",
                "joined_variances",
                "mean_factor",
                "posterior_factor",
                "raw_variance",
            ],
            "potential": ["Potential", "as_potential", "load_prior"],
            "priors": ["PriorSpec"],
            "sets": ["PerAtom", "SetCalibration", "SetSums"],
            "whitening": ["Whitening", "WhiteningBlock", "whiten"],
        },
    )
