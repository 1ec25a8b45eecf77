"""A kernel on a backbone's features, from labelled structures in memory to a potential."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mekrr_scale.backbones import Backbone
from mekrr_scale.files import scratch_folder
from mekrr_scale.models import Potential, PriorSpec
from mekrr_scale.pipeline import ExtractPlan, FitPlan, extract, fit
from mekrr_scale.progress import Progress, shown_progress
from mekrr_scale.transfer.examples import Example


def fit_kernel(
    examples: Sequence[Example],
    backbone: Backbone,
    folder: Path,
    plan: FitPlan | None = None,
    derivatives: int | Literal["all", "none"] = "none",
    prior: PriorSpec | None = None,
    progress: Progress | None = None,
    keep: bool = False,
    device: str = "cpu",
) -> Potential:
    """Extract features, fit, and join the model with its backbone.

    Args:
        examples: with energies (and forces, for derivatives).
        backbone: as ``load_backbone`` gives it, or trained; of the latter the model's file cannot tell.
        folder: for the store.
        keep: the store, as ``features``; otherwise it has a name of its own and is deleted in the end.
        device: torch device of features and predictions; of the fit, see ``plan``.

    Raises:
        StructureError, ConfigError, SolverError: see ``extract`` and ``fit``.
    """
    store = folder / "features" if keep else scratch_folder(folder, "features")
    frames = [example.frame() for example in examples]
    try:
        with shown_progress(progress) as shown:
            how = ExtractPlan(derivatives=derivatives, prior=prior, tangent_dtype="same", device=device)
            extract(frames, store, how, backbone, shown)
            model = fit(store, plan, shown).model
    finally:
        if not keep:
            shutil.rmtree(store, ignore_errors=True)
    return Potential(model, backbone, device=device)
