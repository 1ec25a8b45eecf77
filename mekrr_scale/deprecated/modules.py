"""Modules of version 0.1.0 and where their names are now: old paths work for one release, and warn.

A row is ``"old.module": {"new.place": "Name Other old=new"}``; a name that changed on the way is written
``old=new``. Where the old module still exists (a room that lost a name), its face calls ``with_old_names``.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast, no_type_check

if TYPE_CHECKING:
    from importlib.abc import Loader  # which takes 16 ms to import

_ROWS: Mapping[str, Mapping[str, str]] = {
    "mekrr_scale.arrays": {
        "mekrr_scale.regression": "RowBlock RowMap",
    },
    "mekrr_scale.backbones": {
        "mekrr_scale.backbones": "bare=unscaled",
    },
    "mekrr_scale.backbones.checkpoints": {
        "mekrr_scale.backbones": "Checkpoint=WeightsFile UnsafeCheckpoint read_own",
        "mekrr_scale.backbones.weights": "plain require_own save",
    },
    "mekrr_scale.baselines": {
        "mekrr_scale.arrays": "beyond_composition minimum_norm",
        "mekrr_scale.models": "Baseline BaselineKind fit_baseline",
    },
    "mekrr_scale.cache": {
        "mekrr_scale.files": "default_scratch free_bytes",
        "mekrr_scale.regression": "KeptRows packed_width",
    },
    "mekrr_scale.calculator": {
        "mekrr_scale.models": "MekrrCalculator PredictorCalculator",
    },
    "mekrr_scale.graphs": {
        "mekrr_scale.structures": "Graph SkinList build_graph check_geometry edge_vectors nearest_edges",
    },
    "mekrr_scale.interpret": {
        "mekrr_scale.simulation": "Explanation explain explained totals",
    },
    "mekrr_scale.kernels": {
        "mekrr_scale.arrays": "Landmarks",
    },
    "mekrr_scale.landmarks": {
        "mekrr_scale.landmarks": "LandmarkSelection=LandmarkMethod",
    },
    "mekrr_scale.matrixfree": {
        "mekrr_scale.regression": "ForceMap ModeCosts",
    },
    "mekrr_scale.md": {
        "mekrr_scale.simulation": "Bounds Ensemble MdPlan MdReport relax run_md",
    },
    "mekrr_scale.model": {
        "mekrr_scale.backbones": "identity_of",
        "mekrr_scale.models": "Model",
    },
    "mekrr_scale.operators": {
        "mekrr_scale.solvers": (
            "NormalOperator PanelPreconditioner Preconditioner SpectralPreconditioner classical_gram"
        ),
    },
    "mekrr_scale.pipeline.calibrate": {
        "mekrr_scale.pipeline.fitting": "calibrate",
    },
    "mekrr_scale.pipeline.plan": {
        "mekrr_scale.pipeline": "FitPlan LengthScale",
    },
    "mekrr_scale.posterior": {
        "mekrr_scale.arrays": "alone",
        "mekrr_scale.models": (
            "Calibration Posterior RawVariance Variances joined=joined_variances mean_factor "
            "posterior_factor raw_variance"
        ),
    },
    "mekrr_scale.potential": {
        "mekrr_scale.models": "Potential Uncertainty load_prior",
    },
    "mekrr_scale.priors": {
        "mekrr_scale.backbones": "BackboneEnergies",
        "mekrr_scale.models": "PriorKind PriorSpec",
        "mekrr_scale.structures": "Calculated Entering Entry Labelled Prediction Predictor parse_species_map",
    },
    "mekrr_scale.rows": {
        "mekrr_scale.regression": "Folds RowSource=Rows assign_folds",
    },
    "mekrr_scale.slurm": {
        "mekrr_scale.cli.batch_scripts": "Batch extract_script fit_script",
    },
    "mekrr_scale.solvers.alpha": {
        "mekrr_scale.solvers": "SMALLEST_ALPHA",
    },
    "mekrr_scale.store": {
        "mekrr_scale.store": "Report=VerifyReport",
    },
    "mekrr_scale.torchsim": {
        "mekrr_scale.engines": "MekrrModel",
    },
    "mekrr_scale.transfer": {
        "mekrr_scale.transfer": "Errors=ValidationErrors",
    },
    "mekrr_scale.transfer.curve": {
        "mekrr_scale.transfer": "CurvePlan CurvePoint Variant expanded run_curve summarized",
    },
    "mekrr_scale.transfer.kernels": {
        "mekrr_scale.transfer": "fit_kernel",
    },
    "mekrr_scale.transforms": {
        "mekrr_scale.kernels": "Standardize Transform fit_transform",
    },
    "mekrr_scale.whitening": {
        "mekrr_scale.arrays": "eigh",
        "mekrr_scale.models": "Whitening WhiteningBlock WhiteningMethod whiten",
    },
}

# old module -> old name -> (new module, new name)
MOVED: Mapping[str, Mapping[str, tuple[str, str]]] = {
    old: {
        name.partition("=")[0]: (new, name.rpartition("=")[2])
        for new, names in places.items()
        for name in names.split()
    }
    for old, places in _ROWS.items()
}


class OldModules:
    """Finder and loader of modules that are no more, after all others have looked."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, cast("Loader", self)) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None  # an ordinary one

    def exec_module(self, module: ModuleType) -> None:
        def absent(name: str) -> Any:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__doc__ = "Names that have moved (version 0.1.0)."
        module.__dict__["__all__"] = sorted(MOVED[module.__name__])
        module.__dict__["__dir__"] = lambda: sorted(MOVED[module.__name__])
        module.__dict__["__getattr__"] = with_old_names(module.__name__, absent)


def with_old_names(module: str, getattr_: Callable[[str], Any]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that also knows the names which were there in version 0.1.0."""
    moved = MOVED.get(module, {})

    @no_type_check  # the checker's frame between this one and the user's would shift the levels
    def found(name: str) -> Any:
        if name not in moved:
            return getattr_(name)
        place, new = moved[name]
        value = getattr(importlib.import_module(place), new)
        frame, level = sys._getframe(1), 2
        while str(frame.f_globals.get("__name__")).partition(".")[0] == "jaxtyping" and frame.f_back is not None:
            frame, level = frame.f_back, level + 1  # older versions check this function all the same
        # `from package import name` asks twice, the first time (hasattr) in importlib's own code
        if frame.f_code.co_name != "_handle_fromlist":
            warnings.warn(
                f"{module}.{name} is deprecated: use {place}.{new}, the old path goes with the next release",
                DeprecationWarning,
                stacklevel=level,
            )
        return value

    function: Callable[[str], Any] = found
    return function


def install() -> None:
    """Have Python find the old modules; what is imported of them by accident is nothing."""
    if not any(isinstance(finder, OldModules) for finder in sys.meta_path):
        sys.meta_path.append(OldModules())
