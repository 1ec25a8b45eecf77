"""Plans as people write them: nested, flat as in 0.1.0, in TOML, as flags; what they are called in states and docs."""

import dataclasses
import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mekrr_scale.arrays import KINDS, RowKind
from mekrr_scale.config import load_config
from mekrr_scale.errors import ConfigError
from mekrr_scale.kernels import SpeciesMixing
from mekrr_scale.pipeline import BaselinePlan, FitPlan, KernelPlan, LandmarkPlan, LengthScale, RowPlan, Validation
from mekrr_scale.pipeline.fitting import identity_text
from mekrr_scale.plans import to_dict
from mekrr_scale.regression import Execution
from mekrr_scale.solvers import Direct, Exact, Falkon, FalkonLibrary

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
        (lambda: Validation(criterion="balance"), "'balance': write balanced, summed, or weights"),
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
    ({"validation": {"criterion": "summed"}}, {"validation": Validation(criterion=(1.0, 1e-4, 0.0))}),
    ({"validation": {"criterion": "balanced"}}, {"validation": Validation()}),
    ({"validation": {"criterion": {"force": 1}}}, {"validation": Validation(criterion=(1.0, 1.0, 0.0))}),
    ({"execution": "cuda"}, {"execution": Execution(device="cuda")}),
    ({"execution": {"memory": "2G"}}, {"execution": Execution(memory=2 * 1024**3)}),
    ({"execution": {"scratch": "/local"}}, {"execution": Execution(scratch=Path("/local"))}),
    ({"execution": {"scratch": "none"}}, {"execution": Execution(scratch=None)}),
    # as scientific Python writes them
    ({"solver": {"ridges": np.logspace(-9, -7, 3)}}, {"solver": Direct((1e-9, 1e-8, 1e-7))}),
    ({"kernel": {"alphas": np.array(0.5)}}, {"kernel": KernelPlan(alphas=0.5)}),
    ({"kernel": {"alphas": torch.tensor([0.0, 0.5])}}, {"kernel": KernelPlan(alphas=(0.0, 0.5))}),
    ({"kernel": {"length_scales": np.array([2.0, 3.0])}}, {"kernel": KernelPlan(length_scales=(2.0, 3.0))}),
    ({"kernel": {"mixing": {"H": np.array([1, 0]), "O": [0, 1]}}}, {"kernel": {"mixing": {"H": (1, 0), "O": (0, 1)}}}),
    ({"landmarks": np.int64(80)}, {"landmarks": LandmarkPlan(count=80)}),
    ({"rows": np.array([1.0, 0.1])}, {"rows": [1, 0.1]}),
    ({"rows": {"weights": {"force": np.array([0.1, 0.2])}}}, {"rows": {"weights": {"force": (0.1, 0.2)}}}),
    ({"validation": {"criterion": np.array([1.0, 0.1])}}, {"validation": {"criterion": (1.0, 0.1)}}),
]  # fmt: skip


@pytest.mark.parametrize(("written", "meant"), WRITTEN, ids=lambda given: str(given)[:50])
def test_what_a_person_would_write_is_accepted(written, meant):
    found, expected = FitPlan(**written), FitPlan(**meant)
    assert found == expected
    assert identity_text(found) == identity_text(expected)  # types too: 1 is 1.0


def test_arrays_of_more_than_a_row_are_no_lists():
    with pytest.raises(ConfigError, match="write numbers, several separated by commas"):
        Direct(ridges=np.ones((2, 2)))


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
