"""Which features a tuning makes: as many as time allows, and none twice."""

from dataclasses import replace

import pytest

from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.store import FeatureStore
from mekrr_scale.tuning.arms import Arm, Cost, families
from mekrr_scale.tuning.final import gathered_features
from mekrr_scale.tuning.race import Course, course_of, kept_of, needed
from mekrr_scale.tuning.scores import Score
from mekrr_scale.tuning.state import Tuning
from tests.backbones.networks import small_sevennet
from tests.tuning.toys import ARM, race_of


class Slower(Tuning):  # features take so many times as long as foreseen
    times = 1.0

    def store(self, arm, cost, directions, first, last):
        self.paces[arm] = self.times
        self.journal.step(f"made-{directions}-{first}-{last}", lambda: {"foreseen": 0.0})
        return object.__new__(FeatureStore)  # which nobody reads


@pytest.mark.parametrize(("times", "directions"), [(1.0, "all"), (10.0, "all"), (11.0, 2), (20.0, 1), (50.0, 1)])
def test_the_first_piece_tells_how_long_features_take(tuning, times, directions):
    """Fewer directions of all frames, where all directions would leave most of the frames out."""
    slower = Slower(tuning.plan, tuning.data, tuning.folder, tuning.journal, tuning.progress)
    slower.times = times
    race = race_of(Cost(1e-3, 2e-3, 64), frames=0)
    found = gathered_features(slower, race, ARM)
    assert found.amount.directions == directions
    assert (found.amount.frames == 200) == (times < 50)
    assert gathered_features(slower, race, ARM).amount == found.amount


HOLDER, HELD = (
    Arm(BackboneSpec("sevennet", "gate2", version="7net-0", invariants=kind)) for kind in ("products", "scalars")
)


def test_features_that_another_holds_cost_nothing(tuning):
    assert families([HELD, ARM, HOLDER]) == [[HOLDER, HELD], [ARM]]
    assert [needed(arm, [HOLDER, HELD]) for arm in (HOLDER, HELD)] == [needed(HELD, [HELD]), False] == [True, False]
    tuning.plan = replace(tuning.plan, budget=400.0)
    costs = {arm: Cost(0.25, 0.0, 64) for arm in (HOLDER, HELD, ARM)}
    assert course_of(tuning, [HOLDER, HELD], costs).first == 100
    course = Course([HOLDER, HELD], 16, 200, 4)

    def kept(arm):
        at = [Score(one, 16, "4", {"energy_rmse": 1.0}, 1.0) for one in (HOLDER, arm)]
        return kept_of(tuning, at, at, costs, 200, course)["over"]

    assert not kept(HELD)
    assert kept(ARM)


def test_features_that_another_holds_are_taken_from_it(tuning, tmp_path):
    pytest.importorskip("sevenn")
    network = small_sevennet(tmp_path / "small.pt")
    holder, held = (replace(arm, spec=replace(arm.spec, version=None, checkpoint=network)) for arm in (HOLDER, HELD))
    cost = Cost(1e-3, 1e-3, 4)
    made = tuning.store(holder, cost, 2, 0, 8)
    taken = tuning.store(held, cost, 2, 0, 8)
    assert tuning.journal.step(f"made-{held.slug}-2-0-8", dict)["foreseen"] == 0.0
    assert tuning.pace(held) == tuning.pace(holder)
    assert (taken.n_structures, taken.n_directions) == (made.n_structures, made.n_directions) == (8, 16)
    assert taken.header.backbone["options"] == []
    assert tuning.store(held, cost, 2, 8, 12).header == taken.header  # nobody else has these
    assert tuning.journal.step(f"made-{held.slug}-2-8-12", dict)["foreseen"] > 0.0
