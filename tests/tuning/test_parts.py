"""The parts of a tuning: times, frames, scores, candidates, and what is done with the time."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.distributed import claim
from mekrr_scale.errors import BackboneError, ConfigError, StructureError
from mekrr_scale.tuning import TunePlan, parse_seconds
from mekrr_scale.tuning.arms import Arm, Cost, arms_of
from mekrr_scale.tuning.features import amount_of
from mekrr_scale.tuning.frames import gathered
from mekrr_scale.tuning.journal import Clock, Journal
from mekrr_scale.tuning.race import Course, course_of, kept_of
from mekrr_scale.tuning.scores import Score, fitted, projected, slope
from tests.tuning.toys import ARM, frame, race_of


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("90s", 90.0), ("5m", 300.0), ("1h30m", 5400.0), ("0.5 h", 1800.0), (77, 77)]
)
def test_times(text, seconds):
    assert parse_seconds(text) == seconds
    assert TunePlan(budget=text).budget == seconds


@pytest.mark.parametrize("text", ["", "soon", "5 parsec", "-5m", "5m then", "1s", math.inf])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ConfigError, match="time|at least|finite|number"):
        TunePlan(budget=text)


@pytest.mark.parametrize(
    "given", [{"derivatives": 0}, {"part": (3, 2)}, {"test_share": 1.0}, {"folds": 1}, {"landmarks": 0}, {"seed": -1}]
)
def test_plans_outside_their_range_are_refused(given):
    with pytest.raises(ConfigError):
        TunePlan(**given)


def test_each_geometry_counts_once():
    frames = [frame(1.0), frame(1.1), frame(1.0), frame(1.2)]
    data = gathered(frames, None, TunePlan())
    assert len(data.training) == 3
    assert "1 copies of frames are left out" in " ".join(data.remarks)
    frames[2] = frame(1.0, energy=-2.0)
    with pytest.raises(StructureError, match=r"frame 2: .* twice, with energies -1.0 and -2.0"):
        gathered(frames, None, TunePlan())
    newest = gathered(frames, None, TunePlan(on_duplicate="newest"))
    found = [atoms.get_potential_energy() for atoms in newest.training if np.isclose(atoms.get_distance(0, 1), 1.0)]
    assert found == [-2.0]


def test_frames_of_the_test_are_not_learned_from():
    data = gathered([frame(1.0), frame(1.1), frame(1.2)], [frame(1.1), frame(1.3)], TunePlan())
    assert sorted(round(atoms.get_distance(0, 1), 3) for atoms in data.training) == [1.0, 1.2]
    assert len(data.test) == 2
    assert "1 training frames stand in the test set" in " ".join(data.remarks)


def test_whole_blocks_are_held_out():
    frames = [frame(1 + 0.001 * i, mark=i) for i in range(100)]
    data = gathered(frames, None, TunePlan())
    held = sorted(atoms.info["mark"] for atoms in data.test)
    assert len(held) == 10
    assert len({mark // 5 for mark in held}) == 2  # two blocks of five frames each
    assert sorted(held + [atoms.info["mark"] for atoms in data.training]) == list(range(100))


def test_whole_trajectories_are_held_out():
    frames = [frame(1 + 0.001 * i, run=f"r{i % 20}") for i in range(100)]
    data = gathered(frames, None, TunePlan(group_key="run"))
    held = {atoms.info["run"] for atoms in data.test}
    assert len(held) == 2
    assert not held & {atoms.info["run"] for atoms in data.training}
    assert "whole trajectories (run)" in " ".join(data.remarks)


def test_isolated_atoms_are_no_held_out_trajectory():
    """Of trajectories that are all larger than the share the smallest is held out, not that of isolated atoms."""
    lone = [Atoms("O", [[0.0, 0.0, 0.1 * i]], info={"run": "free"}) for i in range(3)]
    for i, atoms in enumerate(lone):
        atoms.calc = SinglePointCalculator(atoms, energy=-400.0 - i)
    frames = [frame(1 + 0.001 * i, run=f"r{i % 6}") for i in range(54)]
    data = gathered([*frames, *lone], None, TunePlan(group_key="run", test_share=0.1))
    assert len(data.test) == 9
    assert sum(len(atoms) == 1 for atoms in data.training) >= 1


def test_few_frames_are_all_learned_from():
    assert not gathered([frame(1 + 0.01 * i) for i in range(30)], None, TunePlan()).test
    assert not gathered([frame(1 + 0.01 * i) for i in range(60)], None, TunePlan(test_share=0.0)).test


def test_rare_elements_and_isolated_atoms_come_first():
    lone = Atoms("O")
    lone.calc = SinglePointCalculator(lone, energy=-400.0)
    frames = [*(frame(1 + 0.001 * i) for i in range(60)), frame(1.5, symbol="N"), frame(1.6, symbol="N"), lone]
    data = gathered(frames, None, TunePlan())
    assert data.training[0].symbols[0] == "O"
    assert sum(atoms.symbols[0] == "N" for atoms in data.training[:6]) == 2
    assert all(len(atoms) == 2 for atoms in data.test)


def test_large_trajectories_are_held_out_too():
    """Six alike, of which each is more than the share: one of them, and not none."""
    frames = [frame(1 + 0.001 * i, trajectory=f"t{i // 20}") for i in range(120)]
    data = gathered(frames, None, TunePlan(group_key="trajectory"))
    assert len(data.test) == 20
    assert len({atoms.info["trajectory"] for atoms in data.test}) == 1
    assert any("20 of 120 frames are held out" in line for line in data.remarks)


def test_frames_without_an_energy_are_told():
    bare = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]])
    data = gathered([frame(1.0), frame(1.1), bare], None, TunePlan())
    assert len(data.training) == 2
    assert any("1 frames are left out" in line and "energy" in line for line in data.remarks)
    with pytest.raises(StructureError, match="no frame of input can be used"):
        gathered([bare], None, TunePlan())


def score(layer, frames, value):
    return Score(Arm(BackboneSpec("chgnet", layer)), frames, "4", {"energy_rmse": value}, value)


def test_learning_curves_are_continued():
    curve = [score("conv3", n, 0.2 * n**-0.5) for n in (10, 20, 40)]
    assert fitted(curve) == pytest.approx(0.5)
    assert slope([*curve, score("conv2", 10, 1.0), score("conv2", 20, 2**-0.3), score("conv1", 10, 3.0)]) == (
        pytest.approx(0.4)
    )
    assert slope([]) > 0
    assert slope([score("conv2", 10, 0.0), score("conv2", 20, 0.0)]) == slope([])  # labels that a baseline tells
    assert slope([score("conv3", 10, 1.0), score("conv3", 20, 2.0)]) == 0.05  # errors that grow are noise
    assert projected(curve[-1], 160, 0.5) == pytest.approx(0.2 * 160**-0.5)
    assert projected(curve[-1], 20, 0.5) == curve[-1].value


def test_names_are_filled_with_what_is_worth_trying():
    names = [arm.name for arm in arms_of(TunePlan(backbones="chgnet"))]
    assert names == ["chgnet conv1+conv2+conv3"]
    given = arms_of(TunePlan(backbones=BackboneSpec("chgnet", layer="conv4")))
    assert [arm.name for arm in given] == ["chgnet conv4"]
    sevennet = arms_of(TunePlan(backbones=BackboneSpec("sevennet", version="7net-0")))
    assert [arm.name for arm in sevennet] == [
        "sevennet 7net-0 gate1+gate2 products",
        "sevennet 7net-0 gate1+gate2 scalars",
    ]
    scalars = arms_of(TunePlan(backbones=BackboneSpec("sevennet", invariants="scalars")))
    assert [arm.name for arm in scalars] == [
        "sevennet 7net-l3i5 gate1+gate2 scalars",
        "sevennet 7net-0 gate1+gate2 scalars",
    ]
    assert [
        arm.spec.version for arm in arms_of(TunePlan(backbones=BackboneSpec("sevennet", version="7net-mf-0-pbe")))
    ] == ["7net-mf-0-pbe"]
    assert len({arm.slug for arm in arms_of(TunePlan())}) == len(arms_of(TunePlan()))


def test_checkpoints_of_one_name_are_refused(tmp_path):
    specs = [BackboneSpec("schnet", checkpoint=str(tmp_path / folder / "net.pt")) for folder in "ab"]
    with pytest.raises(BackboneError, match="names that are alike"):
        arms_of(TunePlan(backbones=specs))


def test_time_of_finished_steps_counts_over_processes(tmp_path):
    path, now = tmp_path / "clock.json", [1000.0]
    first = Clock(path, 100.0, lambda: now[0])
    now[0] += 30.0
    first.beat()
    now[0] += 50.0  # and killed
    second = Clock(path, 100.0, lambda: now[0])
    assert second.used == 30.0
    now[0] += 100.0
    assert second.left == -30.0
    second.beat()
    assert Clock(path, 100.0, lambda: now[0]).used == 130.0
    path.write_text("{}")
    assert Clock(path, 100.0, lambda: now[0]).used == 0.0  # damaged: it begins anew


def test_a_step_is_made_once(tmp_path):
    journal = Journal(tmp_path, Clock(tmp_path / "clock.json", 100.0))
    made = []
    for _ in range(3):
        found = journal.step("one", lambda: made.append(1) or {"value": 0.1 + 0.2})
        assert found["value"] == 0.1 + 0.2
    assert made == [1]
    assert journal.has("one")


def test_what_time_limited_is_decided_again_with_more(tmp_path):
    given = []

    def decide(limited):
        return lambda before: given.append(before and before["budget"]) or {"limited": limited}

    for budget, limited in ((100.0, True), (100.0, False), (200.0, False), (300.0, True)):
        journal = Journal(tmp_path, Clock(tmp_path / "clock.json", budget))
        found = journal.decision("room", decide(limited))
        assert found["limited"] == (budget == 100.0)
    assert given == [None, 100.0]  # once at first, once with more; what was not limited stays


def test_a_damaged_claim_is_told(tmp_path):
    claim(tmp_path / "plan.json", "a tuning", {"seed": 0, "budget": 1.0}, frozenset({"budget"}))
    claim(tmp_path / "plan.json", "a tuning", {"seed": 0, "budget": 2.0}, frozenset({"budget"}))
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        claim(tmp_path / "plan.json", "a tuning", {"seed": 0}, frozenset())


@pytest.mark.parametrize(
    ("cost", "frames", "directions"),
    [
        (Cost(1e-5, 1e-5), 200, "all"),
        (Cost(0.01, 0.02), 200, 2),  # of six
        (Cost(0.0, 0.2), 68, 1),
        (Cost(0.1, 0.1), 34, 1),  # half of the time is for energies of others
        (Cost(0.01, 0.02, 0.05), 130, 2),  # one direction of all frames would be borne, and two take little more
        (Cost(0.01, 0.01, 0.1), 83, 4),  # as many as in the race
        (Cost(10.0, 10.0), 16, 4),  # what the race has made, at least
    ],
)
def test_time_goes_into_frames_first_and_directions_then(tuning, cost, frames, directions):
    found = amount_of(tuning, race_of(cost), ARM)
    assert found["cuts"][-1] == pytest.approx(frames, abs=2)
    assert found["directions"] == directions
    assert found["cuts"][0] == 0
    assert found["cuts"] == sorted(set(found["cuts"]))
    assert (found["energies"] > 0) == (frames < 200 and cost.features > 0)


def test_what_the_race_has_made_is_of_use(tuning):
    """Four directions of all frames are too dear, but not of those that the race has left."""
    cost = Cost(0.01, 0.018)
    assert amount_of(tuning, race_of(cost), ARM)["directions"] == 2
    found = amount_of(tuning, race_of(cost, 128), ARM)
    assert found["directions"] == 4
    assert {16, 32, 64, 128, 200} <= set(found["cuts"])


def test_more_time_never_makes_less(tuning):
    race = race_of(Cost(0.01, 0.02))
    before = amount_of(tuning, race, ARM)
    tuning.paces[ARM] = 10.0
    assert amount_of(tuning, race, ARM, before) == before
    tuning.paces[ARM] = 0.2
    assert amount_of(tuning, race, ARM, before)["work"] > before["work"]
    assert before["limited"]
    assert not amount_of(tuning, race, ARM, before)["limited"]


def test_a_little_less_time_makes_the_same(tuning):
    """As after a kill."""
    race = race_of(Cost(0.01, 0.02))
    before = amount_of(tuning, race, ARM)
    tuning.paces[ARM] = 1.03
    after = amount_of(tuning, race, ARM)
    assert (after["cuts"][-1], after["directions"]) == (before["cuts"][-1], before["directions"])


def test_a_slow_machine_makes_less(tuning):
    tuning.paces[ARM] = 10.0
    assert amount_of(tuning, race_of(Cost(0.01, 0.02)), ARM)["cuts"][-1] < 150


@pytest.mark.parametrize(("atoms", "directions"), [(1, "all"), (2, "all"), (3, 16)])
def test_directions_are_powers_of_two_or_all(tuning, atoms, directions):
    large = [Atoms(numbers=[1] * 2 * atoms) for _ in tuning.data.training]
    tuning.data = replace(tuning.data, training=large)
    assert tuning.options[0] == "all"
    assert all(2 * low == high for high, low in pairwise(tuning.options[1:]))
    assert course_of(tuning, [ARM], {ARM: Cost(1e-4, 1e-4)}).directions == directions


def test_networks_that_are_too_slow_do_not_run(tuning):
    arms = [Arm(BackboneSpec("chgnet", f"conv{i}")) for i in (1, 2, 3)]
    costs = {arm: Cost(10.0**i * 1e-3, 0.0) for i, arm in enumerate(arms)}
    found = course_of(tuning, arms, costs)
    assert arms[2] not in found.arms
    assert arms[0] in found.arms
    assert 10 <= found.first <= 100


def test_half_of_the_frames_come_first(tuning):
    """Where there is time: two subsets are a learning curve."""
    tuning.data = replace(tuning.data, training=tuning.data.training[:25])
    found = course_of(tuning, [ARM], {ARM: Cost(1e-4, 1e-4)})
    assert (found.first, found.after(found.first)) == (12, 25)
    assert found.cuts(25) == [0, 12, 25]
    assert Course([ARM], 16, 849, 4).cuts(200) == [0, 16, 32, 64, 128, 200]


SLOW, QUICK, OTHER = (Arm(BackboneSpec("chgnet", f"conv{i}")) for i in (3, 1, 2))


def test_the_race_looks_at_what_errors_will_be(tuning):
    """A network that is ahead, and so slow that it never sees all the data, is left behind."""
    costs = {SLOW: Cost(1.0, 0.2), QUICK: Cost(1e-4, 1e-4)}
    course = Course([SLOW, QUICK], 16, 200, 4)
    at = [Score(SLOW, 16, "4", {"energy_rmse": 0.95}, 0.95), Score(QUICK, 16, "4", {"energy_rmse": 1.0}, 1.0)]
    kept = kept_of(tuning, at, at, costs, 32, course)
    assert kept["arms"] == [QUICK.name]
    equal = {SLOW: costs[QUICK], QUICK: costs[QUICK]}
    assert kept_of(tuning, at, at, equal, 200, course)["arms"] == [SLOW.name, QUICK.name]


def test_what_chance_may_have_done_drops_none(tuning):
    """Half as much again on sixteen frames is nothing; on two hundred it is; all go on as far as time allows."""
    course = Course([SLOW, QUICK, OTHER], 16, 200, 4)
    values = {SLOW: 1.0, QUICK: 1.5, OTHER: 1.8}
    quick = dict.fromkeys(values, Cost(1e-4, 1e-4))

    def kept(frames, more, costs):
        at = [Score(arm, frames, "4", {"energy_rmse": value}, value) for arm, value in values.items()]
        return kept_of(tuning, at, at, costs, more, course)

    tuning.plan = replace(tuning.plan, budget=1000.0)
    assert kept(16, 32, quick)["arms"] == [SLOW.name, QUICK.name]
    assert not kept(16, 32, quick)["over"]
    assert kept(200, 200, quick)["arms"] == [SLOW.name]
    dear = dict.fromkeys(values, Cost(8.0, 0.0))
    ended = kept(16, 32, dear)
    assert ended["over"]
    assert ended["arms"] == [SLOW.name, QUICK.name]  # both may be tried in full


def test_the_journal_is_readable(tuned):
    steps = [json.loads(path.read_text()) for path in (tuned.folder / "steps").glob("*.json")]
    assert steps
    assert all(step["seconds"] >= 0 and "seal" in step for step in steps)
