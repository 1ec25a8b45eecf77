"""Plans as people write them: nested, flat as in 0.1.0, in TOML, as flags; what they are called in states and docs."""

import dataclasses
import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mekrr_scale import solvers
from mekrr_scale.arrays import KINDS, RowKind
from mekrr_scale.config import load_config, plan_options
from mekrr_scale.config.document import document, on_page_markdown
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import SpeciesMixing
from mekrr_scale.pipeline import BaselinePlan, FitPlan, KernelPlan, LandmarkPlan, LengthScale, RowPlan, Validation
from mekrr_scale.pipeline.fitting import FitData, identity_text
from mekrr_scale.pipeline.fitting.identity import identity
from mekrr_scale.plans import fields_of, flag_of, to_dict
from mekrr_scale.regression import Execution
from mekrr_scale.solvers import Direct, Exact, Falkon, FalkonLibrary
from mekrr_scale.store import FeatureStore

ROOT = Path(__file__).parents[2]
MATRIX = SpeciesMixing(0.0, (1, 8), ((1.0, 0.2), (0.2, 1.0)))

# keywords of 0.1.0's FitPlan, and the same today; the names kernel, landmarks, solver and seed are kept
FLAT = [
    (
        {"kernel": "linear", "kernel_parameters": {"offset": 1.0}},
        {"kernel": KernelPlan("linear", parameters={"offset": 1.0})},
    ),
    ({"length_scales": (LengthScale(3.0, False),)}, {"kernel": KernelPlan(length_scales=3.0)}),
    ({"alphas": (0.0, 0.5)}, {"kernel": KernelPlan(alphas=(0.0, 0.5))}),
    ({"mixing": MATRIX}, {"kernel": KernelPlan(mixing={"H": (1.0, 0.2), "O": (0.2, 1.0)})}),
    ({"learn_mixing": True}, {"kernel": KernelPlan(mixing="learn")}),
    ({"learn_mixing": False, "mixing": None}, {}),
    ({"reduce": "mean"}, {"kernel": KernelPlan(reduce="mean")}),
    ({"standardize": ("none", "scale")}, {"kernel": KernelPlan(standardize=("none", "scale"))}),
    ({"baselines": ("backbone",)}, {"baseline": BaselinePlan(("backbone",))}),
    ({"isolated": {1: -13.6, 8: -432.0}}, {"baseline": BaselinePlan(isolated={"H": -13.6, "O": -432.0})}),
    ({"landmarks": "farthest", "n_landmarks": 80}, {"landmarks": LandmarkPlan("farthest", 80)}),
    ({"warm": Path("m.mekrr")}, {"landmarks": LandmarkPlan(model=Path("m.mekrr"))}),
    ({"balance": "equal"}, {"landmarks": LandmarkPlan(balance="equal")}),
    ({"ridges": (1e-6,)}, {"solver": Direct((1e-6,))}),
    ({"solver": "exact", "ridges": (1e-6,)}, {"solver": Exact((1e-6,))}),
    ({"solver": "falkon", "ridges": (1e-6,), "falkon": {"rtol": 1e-4}}, {"solver": Falkon((1e-6,), rtol=1e-4)}),
    ({"falkon": {"rtol": 1e-4}}, {}),  # of a solver that has no such options they were passed over
    ({"folds": 3}, {"validation": 3}),
    ({"energy_weights": (1.0, 2.0)}, {"rows": RowPlan(weights={"energy": (1.0, 2.0)})}),
    ({"force_weights": (0.01,), "stress_weights": (0.1,)}, {"rows": RowPlan(weights={"force": 0.01, "stress": 0.1})}),
    ({"store_weights": (0.01, 1.0)}, {"rows": RowPlan(store_weights=(0.01, 1.0))}),
    ({"use_derivatives": False}, {"rows": RowPlan(derivatives=False)}),
    ({"cut": 1e-9}, {"rows": RowPlan(cut=1e-9)}),
    ({"whitening": "cholesky"}, {"rows": RowPlan(whitening="cholesky")}),
    ({"select": (1.0, 0.01, 0.0)}, {"validation": Validation(criterion=(1.0, 0.01, 0.0))}),
    ({"uncertainty": False}, {"validation": Validation(uncertainty=False)}),
    ({"device": "cuda"}, {"execution": Execution(device="cuda")}),
    ({"memory_bytes": 1000}, {"execution": Execution(memory=1000)}),
    ({"scratch": None}, {"execution": Execution(scratch=None)}),
]  # fmt: skip
KEPT = {"kernel", "landmarks", "solver", "seed"}
OLD_FIELDS = {  # of 0.1.0's FitPlan
    *("kernel", "kernel_parameters", "length_scales", "alphas", "mixing", "learn_mixing", "reduce", "standardize"),
    *("baselines", "isolated", "landmarks", "n_landmarks", "warm", "balance", "solver", "ridges", "folds"),
    *("energy_weights", "force_weights", "store_weights", "stress_weights", "select", "use_derivatives", "cut"),
    *("whitening", "device", "memory_bytes", "scratch", "falkon", "uncertainty", "seed"),
}


def test_every_flat_keyword_is_tried():
    assert {name for flat, _ in FLAT for name in flat} | KEPT == OLD_FIELDS


@pytest.mark.parametrize(("flat", "nested"), FLAT, ids=lambda given: "-".join(given)[:40])
def test_flat_keywords_give_the_nested_plan_and_warn(flat, nested):
    with pytest.warns(DeprecationWarning, match="is deprecated: use its parts") as caught:
        found = FitPlan(**flat)
    assert found == FitPlan(**nested)
    message = str(caught[0].message)
    assert all(f"{name}=..." in message for name in set(flat) - KEPT)
    with pytest.warns(DeprecationWarning, match="deprecated"):
        assert replace(FitPlan(), **flat) == found


def test_names_that_are_kept_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = FitPlan("matern32", landmarks="farthest", solver="falkon", seed=3)
    assert plan == FitPlan(KernelPlan("matern32"), LandmarkPlan("farthest"), solver=Falkon(), seed=3)


def test_a_flat_keyword_changes_its_field_alone():
    plan = FitPlan(
        kernel=KernelPlan("matern32", length_scales="3x", alphas=(0.5, 1)),
        landmarks=LandmarkPlan("farthest", 50, balance="equal"),
        baseline=BaselinePlan("isolated", {"H": -13.6}),
        rows=RowPlan(weights={"force": 0.1}, cut=1e-10),
        solver=Falkon((1e-6,), rtol=1e-4),
        validation=Validation(3, uncertainty=False),
        execution=Execution("cuda", memory="1G"),
        seed=5,
    )
    changes = [
        ({"n_landmarks": 60}, {"landmarks": LandmarkPlan("farthest", 60, balance="equal")}),
        ({"alphas": (1.0,)}, {"kernel": KernelPlan("matern32", length_scales="3x", alphas=1.0)}),
        ({"isolated": {1: -13.5}}, {"baseline": BaselinePlan("isolated", {"H": -13.5})}),
        ({"energy_weights": (2.0,)}, {"rows": RowPlan(weights={"energy": 2.0, "force": 0.1}, cut=1e-10)}),
        ({"ridges": (1e-7,)}, {"solver": Falkon((1e-7,), rtol=1e-4)}),
        ({"falkon": {"subset": 0.2}}, {"solver": Falkon((1e-6,), rtol=1e-4, subset=0.2)}),
        ({"folds": 4}, {"validation": Validation(4, uncertainty=False)}),
        ({"memory_bytes": 7}, {"execution": Execution("cuda", memory=7)}),
    ]
    for flat, nested in changes:
        with pytest.warns(DeprecationWarning, match="deprecated"):
            assert replace(plan, **flat) == replace(plan, **nested)


# key of a TOML file of 0.1.0 with a value, the same today
TOML = [
    ("validate", "validate = 3", "validation.folds = 3"),
    ("store_weight", "store_weight = [0.01, 1]", "rows.store_weights = [0.01, 1]"),
    ("uncertainty", "uncertainty = false", "validation.uncertainty = false"),
    ("kernel.length_scale", 'kernel.length_scale = ["3x", 4]', 'kernel.length_scales = ["3x", 4]'),
    ("kernel.alpha", "kernel.alpha = 0.5", "kernel.alphas = 0.5"),
    ("baseline.kind", 'baseline.kind = "prior"', 'baseline.kinds = "prior"'),
    ("solver.ridge", "solver.ridge = [1e-8, 1e-6]", "solver.ridges = [1e-8, 1e-6]"),
    ("solver.energy_weight", "solver.energy_weight = 2.0", "rows.weights.energy = 2.0"),
    ("solver.force_weight", "solver.force_weight = [0.1, 0.2]", "rows.weights.force = [0.1, 0.2]"),
    ("solver.stress_weight", "solver.stress_weight = [0.1]", "rows.weights.stress = [0.1]"),
    ("solver.select", "solver.select = [1.0, 0.1, 0.2]", "validation.criterion = [1.0, 0.1, 0.2]"),
    ("solver.derivatives", "solver.derivatives = false", "rows.derivatives = false"),
    ("solver.cut", "solver.cut = 1e-10", "rows.cut = 1e-10"),
    ("solver.whitening", 'solver.whitening = "cholesky"', 'rows.whitening = "cholesky"'),
    ("solver.device", 'solver.device = "cuda"', 'execution.device = "cuda"'),
    ("solver.memory", 'solver.memory = "3G"', 'execution.memory = "3G"'),
    ("solver.scratch", 'solver.scratch = "none"', 'execution.scratch = "none"'),
]
# keys that are what they were
SAME = """
store = ["a", "b"]
output = "out.mekrr"
seed = 4
[kernel]
name = "polynomial"
reduce = "sum"
standardize = ["none", "scale"]
parameters = { offset = 1.0, degree = 3 }
[kernel.mixing]
H = [1.0, 0.2]
O = [0.2, 1.0]
[baseline]
isolated = { H = -13.6, O = -432.0 }
[landmarks]
method = "leverage"
count = 70
model = "source.mekrr"
balance = "proportional"
[solver]
name = "falkon"
"""


def loaded(folder, text, flags=None):
    path = folder / "fit.toml"
    path.write_text(text if "\nstore =" in text else f'store = "features"\n{text}')
    return load_config(path, flags)


@pytest.mark.parametrize(("key", "old", "new"), TOML, ids=[key for key, *_ in TOML])
def test_old_keys_of_toml_files_give_the_same_plan_and_warn(tmp_path, key, old, new):
    with pytest.warns(DeprecationWarning, match=f"fit.toml: {key} is now {new.split(' ')[0]}"):
        found = loaded(tmp_path, old)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = loaded(tmp_path, new)
    assert found == expected
    assert found.plan != FitPlan()


def test_options_of_falkon_in_old_toml_files(tmp_path):
    section = "\n[solver.falkon]\nrtol = 1e-4\nsubset = 0.2\nmax_steps = 9\npreconditioner = 'falkon'\n"
    with pytest.warns(DeprecationWarning, match=r"solver\.ridge is now solver\.ridges"):
        found = loaded(tmp_path, f"[solver]\nname = 'falkon'\nridge = 1e-6{section}").plan
    assert found.solver == Falkon((1e-6,), rtol=1e-4, subset=0.2, max_steps=9, preconditioner="falkon")
    assert loaded(tmp_path, f"[solver]\nname = 'direct'{section}").plan == FitPlan()
    assert loaded(tmp_path, section).plan == FitPlan()
    with pytest.warns(DeprecationWarning, match=r"solver\.falkon\.rtol is now solver\.rtol"):
        flagged = loaded(tmp_path, section, {"solver.name": "falkon"}).plan
    assert flagged.solver == Falkon(rtol=1e-4, subset=0.2, max_steps=9, preconditioner="falkon")
    assert loaded(tmp_path, f"[solver]\nname = 'falkon'{section}", {"solver.name": "direct"}).plan == FitPlan()


def test_keys_that_stayed(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = loaded(tmp_path, SAME)
    assert found.store == (str(tmp_path / "a"), str(tmp_path / "b"))
    assert found.output == str(tmp_path / "out.mekrr")
    assert found.plan == FitPlan(
        kernel=KernelPlan(
            "polynomial", standardize=("none", "scale"), mixing=MATRIX, parameters={"offset": 1.0, "degree": 3}
        ),
        baseline=BaselinePlan(isolated={"H": -13.6, "O": -432.0}),
        landmarks=LandmarkPlan("leverage", 70, tmp_path / "source.mekrr", "proportional"),
        solver=Falkon(),
        seed=4,
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FitPlan(kernle="linear"), "FitPlan has no field 'kernle'. Do you mean 'kernel'"),
        (lambda: FitPlan(n_landmark=3), "FitPlan has no field 'n_landmark'. Do you mean 'landmarks'"),
        (lambda: KernelPlan(alpha=1.0), "KernelPlan has no field 'alpha'. Do you mean 'alphas'"),
        (lambda: FitPlan(kernel={"lenght_scales": "2x"}), "Do you mean 'length_scales'"),
        (lambda: FitPlan(solver={"name": "falkon", "subsets": 0.3}), "no option 'subsets'. Do you mean 'subset'"),
        (lambda: FitPlan(solver={"rtol": 0.3}), "'direct' has no option 'rtol'"),
        (lambda: FitPlan(solver="falcon"), "there is no solver 'falcon'. Do you mean 'falkon'"),
        (lambda: FitPlan(kernel="matern"), "there is no kernel 'matern'. Do you mean 'matern52'"),
        (lambda: FitPlan(landmarks="furthest"), "there is no landmark method 'furthest'. Do you mean 'farthest'"),
        (lambda: FitPlan(rows={"weights": {"forse": 1}}), "no kind of rows 'forse'. Do you mean 'force'"),
        (lambda: Validation(criterion={"energi": 1}), "no kind of rows 'energi'. Do you mean 'energy'"),
        (lambda: KernelPlan(mixing="lern"), "'lern': write learn"),
        (lambda: KernelPlan(mixing={"H": (1.0, 0.3)}), "must be 1 x 1"),
        (lambda: FitPlan(solver=3), "3 is no solver"),
        (lambda: FitPlan(kernel=3), "KernelPlan.name: .*string"),
        (lambda: BaselinePlan("compositon"), r"BaselinePlan.kinds.0: .*'composition'"),
        (lambda: KernelPlan(mixing={"Hx": (1.0,)}), "'Hx' is not an element"),
        (lambda: KernelPlan(mixing={"H": (1.0, 0.3), "O": (0.2, 1.0)}), "not symmetric"),
        (lambda: BaselinePlan(isolated={0: 1.0}), "0 is not an element"),
        (lambda: BaselinePlan(isolated="H=many"), "write name=number"),
        (lambda: BaselinePlan(()), "kinds is empty"),
        (lambda: Direct("small"), "'small'.*write numbers"),
        (lambda: KernelPlan(alphas="a"), "'a'.*write numbers"),
        (lambda: Validation(criterion="1,a"), "'a'.*write numbers"),
        (lambda: KernelPlan(length_scales="2x,wide"), "length scale 'wide'"),
        (lambda: RowPlan(weights={"force": "much"}), "'much'.*write numbers"),
        (lambda: RowPlan(weights={"force": ()}), "give at least one"),
        (lambda: RowPlan(weights=(1,) * (len(KINDS) + 1)), "give a number for each kind of rows"),
        (lambda: RowPlan(cut=1.0), "RowPlan.cut: .*less than 1"),
        (lambda: RowPlan(energy_precision="float16"), "RowPlan.energy_precision: .*'float64' or 'float32'"),
        (lambda: Execution(memory="lots"), "'lots' is not a size"),
        (lambda: Execution(memory=True), "True is not a size"),
        (lambda: LandmarkPlan(count=-1), "LandmarkPlan.count: .*greater than or equal to 0"),
        (lambda: LandmarkPlan(count=2.5), "LandmarkPlan.count"),
        (lambda: Falkon(subset=0.0), "Falkon.subset: .*greater than 0"),
        (lambda: Falkon(max_steps=0), "Falkon.max_steps"),
        (lambda: FitPlan(seed=-1), "FitPlan.seed"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kernle = 'linear'", "unknown key 'kernle'. Do you mean 'kernel'"),
        ("[kernel]\nlenght_scales = '2x'", r"unknown key 'kernel\.lenght_scales'. Do you mean 'length_scales'"),
        ("[landmark]\ncount = 3", "unknown key 'landmark'. Do you mean 'landmarks'"),
        ("[solver]\nname = 'falkon'\nsubsets = 0.3", r"unknown key 'solver\.subsets'. Do you mean 'subset'"),
        ("[solver]\nname = 'falkon'\n[solver.falkon]\nsubsets = 0.3", "Do you mean 'subset'"),
        ("[solver]\nname = 'falcon'", "there is no solver 'falcon'. Do you mean 'falkon'"),
        ("[rows.weights]\nforse = 1", r"unknown key 'rows\.weights\.forse'. Do you mean 'force'"),
        ("[validation.criterion]\nenergi = 1", r"unknown key 'validation\.criterion\.energi'. Do you mean 'energy'"),
        ("[landmarks]\ncount = 'many'", r"landmarks\.count: .*'many'"),
        ("[kernel]\nreduce = 'max'", r"kernel\.reduce: .*'sum' or 'mean'"),
        ("[solver]\nridges = 'small'", "'small'.*write numbers"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_as_it_stands_there(tmp_path, text, message):
    with pytest.raises(ConfigError, match=f"fit.toml: .*{message}"):
        loaded(tmp_path, text)


TWICE = LengthScale(2.0)
WRITTEN = [
    ({"kernel": {"length_scales": "2x,3x"}}, {"kernel": KernelPlan(length_scales=(TWICE, LengthScale(3.0)))}),
    ({"kernel": {"length_scales": "2x"}}, {"kernel": KernelPlan(length_scales=(TWICE,))}),
    ({"kernel": {"length_scales": 3}}, {"kernel": KernelPlan(length_scales=(LengthScale(3.0, False),))}),
    ({"kernel": {"length_scales": ["2x", 3]}}, {"kernel": KernelPlan(length_scales=(TWICE, LengthScale(3.0, False)))}),
    ({"kernel": {"alphas": 0.5}}, {"kernel": KernelPlan(alphas=(0.5,))}),
    ({"kernel": {"alphas": "0, 0.5,1"}}, {"kernel": KernelPlan(alphas=(0.0, 0.5, 1.0))}),
    ({"kernel": {"alphas": [0, 1]}}, {"kernel": KernelPlan(alphas=(0.0, 1.0))}),
    ({"kernel": {"standardize": "none,scale"}}, {"kernel": KernelPlan(standardize=("none", "scale"))}),
    ({"kernel": {"parameters": "offset=1"}}, {"kernel": KernelPlan(parameters={"offset": 1})}),
    ({"kernel": {"mixing": {1: [1, 0.2], "O": [0.2, 1]}}}, {"kernel": KernelPlan(mixing=MATRIX)}),
    ({"kernel": "linear"}, {"kernel": KernelPlan("linear")}),
    ({"landmarks": "farthest"}, {"landmarks": LandmarkPlan("farthest")}),
    ({"landmarks": {"model": "m.mekrr"}}, {"landmarks": LandmarkPlan(model=Path("m.mekrr"))}),
    ({"baseline": "composition"}, {"baseline": BaselinePlan(("composition",))}),
    ({"baseline": "backbone,composition"}, {"baseline": BaselinePlan(("backbone", "composition"))}),
    ({"baseline": ["isolated"]}, {"baseline": BaselinePlan(("isolated",))}),
    ({"baseline": {"isolated": "H=-13.6, O=-432"}}, {"baseline": BaselinePlan(isolated={"H": -13.6, "O": -432.0})}),
    ({"rows": {"weights": {"forces": 0.1}}}, {"rows": RowPlan(weights={"force": (0.1,)})}),
    ({"rows": {"weights": {RowKind.FORCE: "0.1,0.2"}}}, {"rows": RowPlan(weights={"force": (0.1, 0.2)})}),
    ({"rows": [1, 0.1]}, {"rows": RowPlan(weights={"energy": (1.0,), "force": (0.1,), "stress": ()})}),
    ({"rows": {"store_weights": "0.01,1"}}, {"rows": RowPlan(store_weights=(0.01, 1.0))}),
    ({"solver": "falkon"}, {"solver": Falkon()}),
    ({"solver": {"name": "falkon", "ridges": 1e-6, "subset": 1}}, {"solver": Falkon((1e-6,), subset=1.0)}),
    ({"solver": {"ridges": "1e-8,1e-6"}}, {"solver": Direct((1e-8, 1e-6))}),
    ({"solver": "exact"}, {"solver": Exact()}),
    ({"solver": Exact}, {"solver": Exact()}),
    ({"solver": "falkon-library"}, {"solver": FalkonLibrary()}),
    ({"validation": 3}, {"validation": Validation(folds=3)}),
    ({"validation": {"criterion": "1,0.1,0"}}, {"validation": Validation(criterion={"energy": 1, "force": 0.1})}),
    ({"validation": {"criterion": {"force": 1}}}, {"validation": Validation(criterion=(1.0, 1.0, 0.0))}),
    ({"execution": "cuda"}, {"execution": Execution(device="cuda")}),
    ({"execution": {"memory": "2G"}}, {"execution": Execution(memory=2 * 1024**3)}),
    ({"execution": {"scratch": "/local"}}, {"execution": Execution(scratch=Path("/local"))}),
    ({"execution": {"scratch": "none"}}, {"execution": Execution(scratch=None)}),
]  # fmt: skip


@pytest.mark.parametrize(("written", "meant"), WRITTEN, ids=lambda given: str(given)[:50])
def test_what_a_person_would_write_is_accepted(written, meant):
    found, expected = FitPlan(**written), FitPlan(**meant)
    assert found == expected
    assert identity_text(found) == identity_text(expected)  # types too: 1 is 1.0


def test_plans_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FitPlan().seed = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        FitPlan().kernel.reduce = "mean"


@pytest.mark.parametrize(
    "given",
    [
        *(meant for _, meant in WRITTEN),
        *(nested for _, nested in FLAT),
        {"kernel": KernelPlan(length_scales=(LengthScale(2.123456789), LengthScale(1 / 3, False)))},
        {"solver": Falkon((1e-6,), 1e-5, 3, "falkon", 0.25, 5, 7), "seed": 9},
    ],
    ids=lambda given: str(given)[:50],
)
def test_a_plan_is_what_its_dictionary_says(given):
    """What reports and JSON hold of a plan makes the same plan."""
    plan = FitPlan(**given)
    assert FitPlan(**to_dict(plan)) == plan
    assert FitPlan(**json.loads(json.dumps(to_dict(plan)))) == plan


# identity of the default plan as 0.1.0 wrote it, and what of it other plans changed
IDENTITY = {
    "version": "0.1.0",
    "kernel": "'gaussian'",
    "kernel_parameters": "{}",
    "length_scales": "(LengthScale(value=2.0, relative=True), LengthScale(value=4.0, relative=True))",
    "alphas": "(1.0,)",
    "mixing": "None",
    "learn_mixing": "False",
    "reduce": "'sum'",
    "standardize": "('scale-per-species',)",
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
        assert found == {**IDENTITY, **changed}


def test_whole_plans_as_texts_are_those_of_0_1_0():
    """What folders of learning curves hold."""
    assert identity_text(FitPlan(execution={"scratch": "none"})) == (
        "FitPlan(kernel='gaussian', kernel_parameters={}, length_scales=(LengthScale(value=2.0, relative=True), "
        "LengthScale(value=4.0, relative=True)), alphas=(1.0,), mixing=None, learn_mixing=False, reduce='sum', "
        f"standardize=('scale-per-species',), baselines=None, isolated={{}}, landmarks='uniform', n_landmarks=1000, "
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


# a text for every option of `fit` that is a field of the plan, and the plan that it makes
FLAGS = {
    "--kernel": ("matern32", {"kernel": "matern32"}),
    "--length-scale": ("3x,4", {"kernel": {"length_scales": ("3x", 4)}}),
    "--alpha": ("0,0.5", {"kernel": {"alphas": (0, 0.5)}}),
    "--mixing": ("learn", {"kernel": {"mixing": "learn"}}),
    "--reduce": ("mean", {"kernel": {"reduce": "mean"}}),
    "--standardize": ("none,scale", {"kernel": {"standardize": ("none", "scale")}}),
    "--kernel-parameters": ("offset=2", {"kernel": {"parameters": {"offset": 2.0}}}),
    "--baseline": ("isolated", {"baseline": "isolated"}),
    "--isolated": ("H=-13.6", {"baseline": {"isolated": {"H": -13.6}}}),
    "--method": ("farthest", {"landmarks": "farthest"}),
    "--landmarks": (7, {"landmarks": {"count": 7}}),
    "--landmarks-from": ("m.mekrr", {"landmarks": {"model": "m.mekrr"}}),
    "--balance": ("equal", {"landmarks": {"balance": "equal"}}),
    "--store-weight": ("0.01,1", {"rows": {"store_weights": (0.01, 1)}}),
    "--derivatives/--no-derivatives": (False, {"rows": {"derivatives": False}}),
    "--cut": (1e-9, {"rows": {"cut": 1e-9}}),
    "--whitening": ("cholesky", {"rows": {"whitening": "cholesky"}}),
    "--energy-precision": ("float32", {"rows": {"energy_precision": "float32"}}),
    "--derivative-precision": ("float64", {"rows": {"derivative_precision": "float64"}}),
    **{f"--{info.name}-weight": ("0.1,0.2", {"rows": {"weights": {info.name: (0.1, 0.2)}}}) for info in KINDS.values()},
    "--solver": ("falkon", {"solver": "falkon"}),
    "--ridge": ("1e-8,1e-6", {"solver": Direct((1e-8, 1e-6))}),
    "--rtol": (1e-4, {"solver": Falkon(rtol=1e-4)}),
    "--max-steps": (9, {"solver": Falkon(max_steps=9)}),
    "--preconditioner": ("falkon", {"solver": Falkon(preconditioner="falkon")}),
    "--subset": (0.2, {"solver": Falkon(subset=0.2)}),
    "--validate": (3, {"validation": 3}),
    "--criterion": ("1,0.1,0", {"validation": {"criterion": (1, 0.1, 0)}}),
    "--uncertainty/--no-uncertainty": (False, {"validation": {"uncertainty": False}}),
    "--device": ("cuda", {"execution": "cuda"}),
    "--memory": ("3G", {"execution": {"memory": "3G"}}),
    "--scratch": ("none", {"execution": {"scratch": "none"}}),
    "--seed": (4, {"seed": 4}),
}
OPTIONS = {option.flag.names[0]: option for option in plan_options()}


def test_every_option_is_tried():
    assert set(OPTIONS) == set(FLAGS)


@pytest.mark.parametrize("name", FLAGS)
def test_options_are_the_plans_fields(tmp_path, name):
    """Alone, and over a file that says something else."""
    option, (text, meant) = OPTIONS[name], FLAGS[name]
    expected = FitPlan(**meant)
    falkon = {"solver.name": "falkon"} if isinstance(expected.solver, Falkon) else {}
    assert isinstance(text, option.type)
    assert option.help
    assert load_config(None, {"store": "f", **falkon, option.key: text}).plan == expected
    (tmp_path / "fit.toml").write_text('store = "f"\nseed = 3\n[landmarks]\ncount = 40\n[rows.weights]\nforce = 0.5\n')
    found = load_config(tmp_path / "fit.toml", {**falkon, option.key: text, "output": None}).plan
    force = expected.rows.weights["force"] if name == "--force-weight" else (0.5,)
    kept = {
        "seed": 4 if name == "--seed" else 3,
        "landmarks": replace(expected.landmarks, count=7 if name == "--landmarks" else 40),
        "rows": replace(expected.rows, weights={**expected.rows.weights, "force": force}),
    }
    assert found == replace(expected, **kept)


def test_options_over_sections_that_are_one_value(tmp_path):
    (tmp_path / "fit.toml").write_text(
        'store = "f"\nkernel = "matern32"\nlandmarks = "farthest"\nbaseline = "isolated"\nsolver = "falkon"\n'
        'validation = 3\nexecution = "cuda"\nrows = [1, 0.1]\n'
    )
    flags = {
        "kernel.alphas": "0.5",
        "landmarks.count": 9,
        "baseline.isolated": "H=-13.6",
        "solver.rtol": 1e-4,
        "validation.uncertainty": False,
        "execution.memory": "1G",
        "rows.cut": 1e-9,
    }
    assert load_config(tmp_path / "fit.toml", flags).plan == FitPlan(
        kernel=KernelPlan("matern32", alphas=0.5),
        landmarks=LandmarkPlan("farthest", 9),
        baseline=BaselinePlan("isolated", {"H": -13.6}),
        rows=RowPlan(weights=(1, 0.1), cut=1e-9),
        solver=Falkon(rtol=1e-4),
        validation=Validation(3, uncertainty=False),
        execution=Execution("cuda", "1G"),
    )


def test_the_page_names_every_field_and_every_option():
    page = document()
    parts = [KernelPlan, BaselinePlan, LandmarkPlan, RowPlan, Validation, Execution]
    for made in [*parts, *(getattr(solvers, name) for name in solvers.SOLVERS.values())]:
        for name, info in fields_of(made).items():
            assert f"**`{name}`**" in page
            assert info.description, (made, name)
            assert " ".join(info.description.split()) in page
            given = flag_of(info)
            assert given is None or f"`{given.names[0]}`" in page
    for section in fields_of(FitPlan):
        assert f"`[{section}]`" in page or f"`{section}`" in page
    for option in plan_options():
        assert f"`{option.flag.names[0]}`" in page, option
    assert on_page_markdown("made when the documentation is built", SimpleNamespace(title="Configuration")) == page
    assert on_page_markdown("another page", SimpleNamespace(title="Concepts")) == "another page"


def test_the_warning_is_about_the_callers_line(tmp_path):
    script = tmp_path / "old.py"
    script.write_text("from mekrr_scale.pipeline import FitPlan\n\nFitPlan(n_landmarks=3)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert f"{script}:3: DeprecationWarning: FitPlan(n_landmarks=...) is deprecated" in done.stderr


def test_no_torch_for_plans_and_help():
    """Configurations are read, checked and documented without it."""
    script = """
import sys
from mekrr_scale.config import load_config
from mekrr_scale.config.document import document, on_page_markdown
from mekrr_scale.pipeline import FitPlan, KernelPlan, LandmarkPlan
from mekrr_scale.plans import to_dict
from mekrr_scale.solvers import Direct, Exact, Falkon, FalkonLibrary
plan = FitPlan(
    kernel=KernelPlan("polynomial", length_scales="2x", mixing={"H": (1.0, 0.2), "O": (0.2, 1.0)}),
    landmarks=LandmarkPlan("leverage"), solver={"name": "falkon", "subset": 0.3}, baseline={"isolated": {"H": -13.6}},
)
assert FitPlan(**to_dict(plan)) == plan
load_config(None, {"store": "f", "solver.name": "exact", "kernel.alphas": "0,1"})
document()
[Direct(), Exact(), Falkon(), FalkonLibrary()]
assert "torch" not in sys.modules, "torch"
assert "h5py" not in sys.modules, "h5py"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
