"""What a person writes for plans is right to type checkers and to plans alike: mypy reads it, test_typed runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import mekrr_scale as ms


def written() -> list[object]:
    """Plans as people write them."""
    return [
        ms.FitPlan(landmarks=100),
        ms.FitPlan(kernel={"length_scales": "2x"}, solver="falkon", validation=3, execution="cpu"),
        ms.FitPlan(kernel="matern52", baseline="composition", solver=ms.Exact, rows={"weights": {"force": 0.01}}),
        ms.FitPlan(
            kernel=ms.KernelPlan(length_scales="2x,4x", alphas=0.5, standardize="none"), solver=ms.Falkon(ridges=1e-6)
        ),
        ms.KernelPlan(length_scales=[3.0, "2x", ms.LengthScale(4.0)], mixing={"H": [1.0, 0.2], "O": [0.2, 1.0]}),
        ms.KernelPlan("polynomial", parameters="offset=1,degree=2", mixing="learn"),
        ms.LandmarkPlan(model="m.mekrr"),
        ms.BaselinePlan("isolated", isolated={1: -13.6, 8: -432.0}),
        ms.BaselinePlan(isolated="H=-13.6,O=-432"),
        ms.RowPlan(weights={"energy": 1, "force": [0.1, 0.01]}, store_weights="0.01,1"),
        ms.Validation(criterion="1,1e-4"),
        ms.Execution(memory="2G", scratch="none"),
        ms.Direct(ridges="1e-8,1e-6"),
        ms.Falkon(ridges=np.logspace(-9, -3, 7)),
        ms.KernelPlan(length_scales=np.array([2.0, 3.0]), alphas=torch.tensor([0.5, 1.0])),
        ms.ExtractPlan(backbone="chgnet:conv3", derivatives=3, shard_bytes="8M", prior="chgnet"),
    ]


def kept() -> tuple[tuple[float, ...], ms.LengthScale, str, Path | None, int]:
    """What plans hold has one type, whatever was written."""
    plan = ms.FitPlan(kernel={"alphas": "0.5,1"}, landmarks=9)
    return (
        plan.kernel.alphas,
        plan.kernel.length_scales[0],
        plan.kernel.name,
        plan.landmarks.model,
        plan.landmarks.count,
    )


# what is wrong is wrong to both; an ignore that ignores nothing is an error of mypy's
WRONG: list[Callable[[], object]] = [
    lambda: ms.FitPlan(kernel=3.0),  # type: ignore[arg-type]
    lambda: ms.FitPlan(landmark=100),  # type: ignore[call-arg]
    lambda: ms.Falkon(ridges=None),  # type: ignore[arg-type]
    lambda: ms.ExtractPlan(dtype="float16"),  # type: ignore[arg-type]
    lambda: ms.RowPlan(weights=3.0),  # type: ignore[arg-type]
]
