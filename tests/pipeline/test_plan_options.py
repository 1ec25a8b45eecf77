"""Options are the fields of a plan."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, get_origin

import pytest

import mekrr_scale
from mekrr_scale import solvers, transfer
from mekrr_scale.arrays import KINDS
from mekrr_scale.config import FitConfig, config_text, load_config, plan_options
from mekrr_scale.config.document import document, on_page_markdown
from mekrr_scale.errors import ConfigError
from mekrr_scale.pipeline import BaselinePlan, FitPlan, KernelPlan, LandmarkPlan, RowPlan, Validation
from mekrr_scale.plans import fields_of, flag_of
from mekrr_scale.regression import Execution
from mekrr_scale.simulation import Bounds
from mekrr_scale.solvers import Direct, Falkon
from mekrr_scale.transfer import CurvePlan
from mekrr_scale.workflows import LearnPlan

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
    "--grow-landmarks": (9, {"landmarks": {"grow_to": 9}}),
    "--landmarks-from": ("m.mekrr", {"landmarks": {"model": "m.mekrr"}}),
    "--balance": ("equal", {"landmarks": {"balance": "equal"}}),
    "--weight": ("bulk=10", {"rows": {"config_weights": {"bulk": 10}}}),
    "--sigma": ("default=1:2:3", {"rows": {"sigmas": {"default": (1, 2, 3)}}}),
    "--drop-outliers/--keep-outliers": (True, {"rows": {"drop_outliers": True}}),
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
    "--embed/--no-embed": (False, {"embed": False}),
    "--licence": ("CC BY 4.0", {"licence": "CC BY 4.0"}),
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


PLANS = [
    made for room in (mekrr_scale, transfer) for name in room.__all__
    if isinstance(made := getattr(room, name), type) and (name.endswith("Plan") or made is Bounds)
]  # fmt: skip


@pytest.mark.parametrize("made", list(dict.fromkeys(PLANS)))
def test_every_plan_is_documented_by_field_and_refuses_other_fields_and_words(made):
    needed = {LearnPlan: {"frames": "a.xyz", "calculator": "emt"}, CurvePlan: {"sizes": 1, "variants": "kernel"}}
    given = needed.get(made, {})
    made(**given)
    fields = fields_of(made)
    for name, info in fields.items():
        assert info.description, name
        if get_origin(info.annotation) is Literal:
            with pytest.raises(ConfigError, match=rf"{name}: Input should be .*\(got 'nonsense'\)"):
                made(**{**given, name: "nonsense"})
    with pytest.raises(ConfigError, match="has no field 'nonsense'"):
        made(**given, nonsense=1)


WORDS = """
import sys
import mekrr_scale as ms
from mekrr_scale.kernels import fit_transform
from mekrr_scale.landmarks import Pool
from mekrr_scale.models import fit_baseline, whiten
from mekrr_scale.simulation import choose
from mekrr_scale.store import repack

for call in (
    lambda: ms.FeatureStore(sys.argv[1], level="none"),
    lambda: repack(sys.argv[1], sys.argv[1] + "-again", tangent_dtype="float8"),
    lambda: fit_transform([], "centred"),
    lambda: fit_baseline([], "compositions"),
    lambda: whiten([], method="qr"),
    lambda: Pool({}, {}, {}).share(1, "square"),
    lambda: choose(None, [], 1, "best"),
):
    try:
        call()
    except ms.MekrrError as error:
        print(error)
"""


def test_words_that_functions_take_are_looked_at(warm, store):
    """In a process whose calls nothing else checks."""
    assert warm.start("-c", WORDS, str(store)).communicate(60)[0].splitlines() == [
        "there is no level 'none'. Possible: full, lazy, size",
        "there is no dtype of repacked tangents 'float8'. Do you mean 'float16'? Possible: float16, same",
        "there is no standardize 'centred'. Do you mean 'centre'? Possible: centre, centre-per-species, none, scale, "
        "scale-per-species",
        "there is no baseline 'compositions'. Do you mean 'composition'? Possible: backbone, composition, isolated, "
        "prior",
        "there is no whitening 'qr'. Possible: cholesky, eigen",
        "there is no balance 'square'. Do you mean 'sqrt'? Possible: equal, proportional, sqrt",
        "there is no method 'best'. Possible: greedy, random, variance",
    ]


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


MIXED = [  # a section's one value beside an old key of the section
    ("validation = 10\nuncertainty = false", "[validation]\nfolds = 10\nuncertainty = false"),
    ("uncertainty = false\nvalidation = 10", "[validation]\nfolds = 10\nuncertainty = false"),
    ('execution = "cuda"\n[solver]\nmemory = "4G"', '[execution]\ndevice = "cuda"\nmemory = "4G"'),
    ("[rows]\nweights = [2.0, 0.1]\n[solver]\nforce_weight = 0.2", "[rows]\nweights = [2.0, 0.2]"),
    ("[solver]\nforce_weight = 0.2\n[rows]\nweights = [2.0, 0.1]", "[rows]\nweights = [2.0, 0.2]"),
    ("rows = [2.0, 0.1]\n[solver]\ncut = 1e-9", "[rows]\nweights = [2.0, 0.1]\ncut = 1e-9"),
]


@pytest.mark.parametrize(("mixed", "new"), MIXED)
def test_old_keys_go_into_sections_of_one_value(tmp_path, mixed, new):
    path = tmp_path / "fit.toml"
    path.write_text(f'store = "features"\n{mixed}')
    with pytest.warns(DeprecationWarning, match="is now"):
        found = load_config(path)
    path.write_text(f'store = "features"\n{new}')
    assert found == load_config(path)


@pytest.mark.parametrize(
    ("mixed", "new"),
    [
        (
            {"baseline": "composition", "isolated": {"H": -13.6}},
            {"baseline": BaselinePlan("composition", {"H": -13.6})},
        ),
        (
            {"baseline": ["backbone", "isolated"], "isolated": {"H": -1.0}},
            {"baseline": BaselinePlan("backbone,isolated", {"H": -1.0})},
        ),
        ({"execution": "cuda", "memory_bytes": 9}, {"execution": Execution("cuda", memory=9)}),
        ({"validation": 10, "uncertainty": False}, {"validation": Validation(10, uncertainty=False)}),
        ({"rows": {"weights": [2.0, 0.1]}, "force_weights": 0.2}, {"rows": RowPlan(weights=[2.0, 0.2])}),
        ({"solver": Falkon, "ridges": 1e-6}, {"solver": Falkon(1e-6)}),
    ],
)
def test_flat_keywords_go_into_sections_of_one_value(mixed, new):
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        assert FitPlan(**mixed) == FitPlan(**new)


def test_flags_change_one_of_the_weights_that_a_text_gives(tmp_path):
    path = tmp_path / "fit.toml"
    path.write_text('store = "features"\n[rows]\nweights = "2,0.1"')
    assert load_config(path, {"rows.weights.force": "0.2"}).plan.rows.weights == RowPlan(weights=[2.0, 0.2]).weights


def test_the_scratch_folder_of_a_file_counts_from_the_file(tmp_path):
    path = tmp_path / "fit.toml"
    for text, expected in (("rows", tmp_path / "rows"), ("/local", Path("/local")), ("None", None)):
        path.write_text(f'store = "features"\n[execution]\nscratch = "{text}"')
        assert load_config(path).plan.execution.scratch == expected


def test_a_configuration_without_a_scratch_folder_stays_without(tmp_path):
    config = FitConfig(("f",), FitPlan(execution=Execution(scratch=None)))
    (tmp_path / "fit.toml").write_text(config_text(config))
    assert load_config(tmp_path / "fit.toml").plan == config.plan
