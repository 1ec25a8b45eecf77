"""Which fits are the same: plans as states and reports tell them."""

import warnings
from pathlib import Path

import pytest

from mekrr_scale.kernels import SpeciesMixing, exponential
from mekrr_scale.pipeline import BaselinePlan, FitPlan, KernelPlan, LandmarkPlan, LengthScale, RowPlan, Validation
from mekrr_scale.pipeline.fitting import FitData, identity_text
from mekrr_scale.pipeline.fitting.identity import identity
from mekrr_scale.regression import Execution
from mekrr_scale.solvers import Exact, Falkon, FalkonLibrary
from mekrr_scale.store import FeatureStore

MATRIX = SpeciesMixing(0.0, (1, 8), ((1.0, 0.2), (0.2, 1.0)))


# identity of the default plan in the words of 0.1.0 (whose length scales and scaling were others), and what of it other
# plans changed
IDENTITY = {
    "version": "0.1.0",
    "kernel": "'gaussian'",
    "kernel_parameters": "{}",
    "length_scales": "(LengthScale(value=4.0, relative=True), LengthScale(value=16.0, relative=True))",
    "alphas": "(1.0,)",
    "mixing": "None",
    "learn_mixing": "False",
    "reduce": "'sum'",
    "standardize": "('centre-per-species',)",
    "baselines": "None",
    "isolated": "{}",
    "landmarks": "'uniform'",
    "n_landmarks": "1000",
    "warm": "None",
    "balance": "'sqrt'",
    "solver": "'direct'",
    "ridges": "(1e-10, 3.1622776601683795e-10, 1e-09, 3.1622776601683795e-09, 1e-08, 3.162277660168379e-08, 1e-07, "
    "3.162277660168379e-07, 1e-06, 3.162277660168379e-06, 1e-05, 3.1622776601683795e-05, 0.0001, "
    "0.00031622776601683794, 0.001, 0.0031622776601683794, 0.01)",
    "folds": "5",
    "energy_weights": "(1.0,)",
    "force_weights": "(0.0001, 0.001, 0.01, 0.1)",
    "store_weights": "()",
    "stress_weights": "(0.0,)",
    "select": "(1.0, 0.0001, 0.0)",
    "use_derivatives": "True",
    "cut": "1e-11",
    "whitening": "'eigen'",
    "seed": "0",
}


# flat keywords, the nested plan, and what changes
IDENTITIES = {
    "default": ({}, {}, {}),
    "falkon": (
        {
            "solver": "falkon", "falkon": {"rtol": 1e-10, "max_steps": 80, "subset": 0.25}, "n_landmarks": 5000,
            "ridges": (1e-8, 1e-6), "force_weights": (0.01,), "folds": 3, "memory_bytes": 4 * 1024**3, "scratch": None,
            "device": "cuda", "seed": 7,
        },
        {
            "solver": Falkon((1e-8, 1e-6), rtol=1e-10, max_steps=80, subset=0.25), "landmarks": {"count": 5000},
            "rows": RowPlan(weights={"force": 0.01}), "validation": 3, "execution": Execution("cuda", "4G", "none"),
            "seed": 7,
        },
        {
            "n_landmarks": "5000", "solver": "'falkon'", "ridges": "(1e-08, 1e-06)", "folds": "3",
            "force_weights": "(0.01,)", "seed": "7",
        },
    ),
    "matrix": (
        {"mixing": MATRIX, "length_scales": (LengthScale(3.0, False), LengthScale(4.0)), "uncertainty": False},
        {
            "kernel": KernelPlan(mixing={"H": (1, 0.2), "O": (0.2, 1)}, length_scales=(3, "4x")),
            "validation": {"uncertainty": False},
        },
        {
            "length_scales": "(LengthScale(value=3.0, relative=False), LengthScale(value=4.0, relative=True))",
            "mixing": "SpeciesMixing(alpha=0.0, species=(1, 8), matrix=((1.0, 0.2), (0.2, 1.0)))",
        },
    ),
    "polynomial": (
        {
            "kernel": "polynomial", "kernel_parameters": {"offset": 1.0, "degree": 3},
            "standardize": ("none", "centre"), "baselines": ("isolated",), "isolated": {1: -13.6, 8: -432.0},
            "landmarks": "farthest", "balance": "equal",
        },
        {
            "kernel": KernelPlan("polynomial", standardize="none,centre", parameters={"offset": 1.0, "degree": 3.0}),
            "baseline": BaselinePlan("isolated", "H=-13.6,O=-432"),
            "landmarks": LandmarkPlan("farthest", balance="equal"),
        },
        {
            "kernel": "'polynomial'", "kernel_parameters": "{'offset': 1.0, 'degree': 3}",
            "standardize": "('none', 'centre')", "baselines": "('isolated',)", "isolated": "{1: -13.6, 8: -432.0}",
            "landmarks": "'farthest'", "balance": "'equal'",
        },
    ),
    "warm": (
        {
            "warm": Path("source.mekrr"), "n_landmarks": 0, "alphas": (0.0, 0.5), "reduce": "mean",
            "store_weights": (0.01, 1.0), "energy_weights": (1.0, 2.0), "stress_weights": (0.0, 0.1),
            "select": (1.0, 0.01, 0.5), "use_derivatives": False, "cut": 1e-10, "whitening": "cholesky",
            "baselines": ("prior", "composition"),
        },
        {
            "landmarks": LandmarkPlan(count=0, model="source.mekrr"),
            "kernel": KernelPlan(alphas="0,0.5", reduce="mean"),
            "rows": RowPlan({"energy": "1,2", "stress": "0,0.1"}, "0.01,1", False, 1e-10, "cholesky"),
            "validation": Validation(criterion="1,0.01,0.5"), "baseline": "prior,composition",
        },
        {
            "alphas": "(0.0, 0.5)", "reduce": "'mean'", "baselines": "('prior', 'composition')", "n_landmarks": "0",
            "warm": "PosixPath('source.mekrr')", "energy_weights": "(1.0, 2.0)", "store_weights": "(0.01, 1.0)",
            "stress_weights": "(0.0, 0.1)", "select": "(1.0, 0.01, 0.5)", "use_derivatives": "False", "cut": "1e-10",
            "whitening": "'cholesky'",
        },
    ),
    "learned": (
        {"learn_mixing": True, "kernel": "gaussian-sum", "landmarks": "displaced"},
        {"kernel": KernelPlan("gaussian-sum", mixing="learn"), "landmarks": "displaced"},
        {"kernel": "'gaussian-sum'", "learn_mixing": "True", "landmarks": "'displaced'"},
    ),
    "exact": (
        {
            "solver": "exact", "landmarks": "structures", "folds": 0, "ridges": (1e-6,),
            "length_scales": (LengthScale(2.0),), "standardize": ("none",),
        },
        {
            "solver": Exact((1e-6,)), "landmarks": "structures", "validation": 0,
            "kernel": KernelPlan(length_scales="2x", standardize="none"),
        },
        {
            "length_scales": "(LengthScale(value=2.0, relative=True),)", "standardize": "('none',)",
            "landmarks": "'structures'", "solver": "'exact'", "ridges": "(1e-06,)", "folds": "0",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", IDENTITIES)
def test_fits_are_told_apart_as_by_0_1_0(store, name):
    """States of running fits and kept sums that 0.1.0 wrote are of the same plan today."""
    flat, nested, changed = IDENTITIES[name]
    opened = FeatureStore(store)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plans = [FitPlan(**flat), FitPlan(**nested)]
    for plan in plans:
        found = identity(FitData(plan, (opened,), derivatives=False))
        assert found.pop("stores") == [opened.id]
        assert found.pop("exponential") == exponential()  # which no state of 0.1.0 tells
        assert found == {**IDENTITY, **changed}


def test_whole_plans_as_texts_are_those_of_0_1_0():
    """What folders of learning curves hold."""
    assert identity_text(FitPlan(execution={"scratch": "none"})) == (
        "FitPlan(kernel='gaussian', kernel_parameters={}, length_scales=(LengthScale(value=4.0, relative=True), "
        "LengthScale(value=16.0, relative=True)), alphas=(1.0,), mixing=None, learn_mixing=False, reduce='sum', "
        f"standardize=('centre-per-species',), baselines=None, isolated={{}}, landmarks='uniform', n_landmarks=1000, "
        f"warm=None, balance='sqrt', solver='direct', ridges={IDENTITY['ridges']}, folds=5, energy_weights=(1.0,), "
        "force_weights=(0.0001, 0.001, 0.01, 0.1), store_weights=(), stress_weights=(0.0,), select=(1.0, 0.0001, 0.0), "
        "use_derivatives=True, cut=1e-11, whitening='eigen', device='cpu', memory_bytes=2147483648, scratch=None, "
        "falkon={}, uncertainty=True, seed=0)"
    )
    falkon = identity_text(FitPlan(solver=Falkon((1e-6,), rtol=1e-10, subset=0.25)))
    assert "solver='falkon', ridges=(1e-06,)" in falkon
    assert "falkon={'rtol': 1e-10, 'subset': 0.25}" in falkon
    assert "falkon={'max_steps': 9}" in identity_text(FitPlan(solver=FalkonLibrary(max_steps=9)))
    later = identity_text(FitPlan(rows={"energy_precision": "float32"}))
    assert later.endswith("seed=0, energy_precision='float32')")


def test_fields_that_came_later_tell_fits_apart(store):
    opened = (FeatureStore(store),)
    usual = identity(FitData(FitPlan(), opened, derivatives=False))
    for name in ("energy_precision", "derivative_precision"):
        other = {"energy_precision": "float32", "derivative_precision": "float64"}[name]
        found = identity(FitData(FitPlan(rows={name: other}), opened, derivatives=False))
        assert found == {**usual, name: repr(other)}
    running = FitPlan(execution=Execution("cuda", 7, None), validation=Validation(uncertainty=False))
    assert identity(FitData(running, opened, derivatives=False)) == usual
