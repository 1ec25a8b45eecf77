"""What people write for values of options: read as meant, whatever the numbers; nonsense is refused in words."""

import dataclasses
import json
import math

import pytest
from ase.data import atomic_numbers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mekrr_scale.errors import ConfigError, MekrrError
from mekrr_scale.files import parse_bytes
from mekrr_scale.pipeline import (
    BaselinePlan,
    ExtractPlan,
    FitPlan,
    KernelPlan,
    LandmarkPlan,
    LengthScale,
    RowPlan,
    Validation,
)
from mekrr_scale.plans import split, to_dict
from mekrr_scale.regression import Execution
from mekrr_scale.solvers import Direct, Exact, Falkon
from mekrr_scale.structures import parse_species_map

NUMBERS = st.floats(1e-300, 1e300)
ELEMENTS = ["H", "C", "N", "O", "Si", "Cu", "Ge", "Og"]
SPACES = st.sampled_from(["", " ", "  "])
LISTS = st.lists(NUMBERS, min_size=1, max_size=4)


@settings(max_examples=100)
@given(LISTS, SPACES, st.booleans())
def test_lists_of_numbers(numbers, space, closed):
    text = f",{space}".join(map(repr, numbers)) + ("," if closed else "")
    assert split(text, float) == split(numbers, float) == tuple(numbers)
    assert split(numbers[0], float) == (numbers[0],)


@settings(max_examples=100)
@given(NUMBERS, st.booleans())
@example(123456.789, True)
@example(1e16, False)
def test_length_scales_come_back_from_their_text(value, relative):
    scale = LengthScale(value, relative)
    assert LengthScale.parse(str(scale)) == scale
    assert LengthScale.parse(f" {scale} ") == scale


@settings(max_examples=100)
@given(st.integers(0, 2**40), st.sampled_from(["", "K", "M", "G", "T"]), st.sampled_from(["", "B", "iB"]), SPACES)
def test_sizes(number, unit, end, space):
    bytes_of = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}[unit]
    found = parse_bytes(f"{space}{number}{unit.lower()}{end}{space}")
    assert found == pytest.approx(number * bytes_of, rel=2**-52)
    if number < 2**13:
        assert found == number * bytes_of
        assert parse_bytes(found) == found


@settings(max_examples=100)
@given(st.permutations(ELEMENTS), st.permutations(ELEMENTS), st.integers(0, len(ELEMENTS)), SPACES)
def test_species_maps(sources, targets, count, space):
    pairs = list(zip(sources, targets, strict=True))[:count]
    text = f"{space},{space}".join(f"{a}{space}:{space}{b}" for a, b in pairs)
    assert parse_species_map(text) == {atomic_numbers[a]: atomic_numbers[b] for a, b in pairs}
    for again in pairs[:1]:
        with pytest.raises(ConfigError, match="twice"):
            parse_species_map(f"{text},{again[0]}:{again[1]}")


@settings(max_examples=200)
@given(st.one_of(st.text(max_size=12), st.text("0123456789.,=-+eExnaifGMKHO:/ ", max_size=10)))
@example("nan,1")
@example("1e999")
@example("=,=")
@example("H=")
@example("\N{ARABIC-INDIC DIGIT ONE}x")
def test_nonsense_is_refused_in_words_or_read_as_numbers(text):
    """Never anything but a value or an error of the package's own, of one line."""
    for read in (
        lambda: KernelPlan(length_scales=text),
        lambda: KernelPlan(alphas=text),
        lambda: KernelPlan(parameters=text),
        lambda: BaselinePlan(isolated=text),
        lambda: RowPlan(store_weights=text),
        lambda: RowPlan(weights={"force": text}),
        lambda: Validation(criterion=text),
        lambda: Execution(memory=text),
        lambda: Direct(ridges=text),
        lambda: ExtractPlan("chgnet", derivatives=text),
        lambda: FitPlan(solver=text),
        lambda: parse_species_map(text),
        lambda: parse_bytes(text),
    ):
        try:
            value = read()
        except MekrrError as error:
            told = str(error)
        else:
            assert all(map(math.isfinite, flat(to_dict(value) if dataclasses.is_dataclass(value) else value)))
            continue
        assert len(told) > 10, told  # said in words


def flat(value):
    """Every number within."""
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, list | tuple):
        return [number for item in value for number in flat(item)]
    return [value] if isinstance(value, int | float) else []


@st.composite
def plans(draw):
    """Plans with fields of every kind."""
    alphas = st.lists(st.floats(0, 1), min_size=1, max_size=3)
    scales = st.lists(st.builds(LengthScale, NUMBERS, st.booleans()), min_size=1, max_size=3)
    solver = draw(st.sampled_from([Direct, Exact, Falkon]))
    return FitPlan(
        kernel=KernelPlan(
            draw(st.sampled_from(["gaussian", "matern32", "linear"])),
            length_scales=draw(scales),
            alphas=draw(alphas),
            reduce=draw(st.sampled_from(["sum", "mean"])),
        ),
        landmarks=LandmarkPlan(draw(st.sampled_from(["uniform", "leverage"])), draw(st.integers(1, 10**6))),
        baseline=BaselinePlan(isolated=draw(st.dictionaries(st.sampled_from(ELEMENTS), st.floats(-1e5, 1e5)))),
        rows=RowPlan(weights={"energy": draw(LISTS), "force": draw(LISTS)}, store_weights=draw(LISTS)),
        solver=solver(tuple(draw(LISTS))),
        validation=Validation(draw(st.sampled_from([2, 9])), criterion={"force": draw(st.floats(0, 10))}),
        execution=Execution(memory=draw(st.integers(0, 2**50))),
        seed=draw(st.integers(0, 2**31)),
    )


@settings(max_examples=50)
@given(plans())
def test_plans_come_back_from_plain_values(plan):
    """As TOML and JSON hold them."""
    assert FitPlan(**to_dict(plan)) == plan
    assert FitPlan(**json.loads(json.dumps(to_dict(plan)))) == plan
