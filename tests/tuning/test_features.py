"""Which features a tuning makes: as many as time allows, and none twice."""

from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest

from mekrr_scale.backbones import BackboneSpec
from mekrr_scale.pipeline import compare
from mekrr_scale.store import FeatureStore
from mekrr_scale.tuning import arms
from mekrr_scale.tuning.arms import Arm, Cost, families, measured
from mekrr_scale.tuning.features import Amount, gathered_features, more_features
from mekrr_scale.tuning.final import Search, in_full
from mekrr_scale.tuning.journal import Clock, Journal
from mekrr_scale.tuning.race import Course, Raced, course_of, kept_of, needed, raced
from mekrr_scale.tuning.scores import Score
from mekrr_scale.tuning.state import Tuning
from tests.backbones.networks import small_sevennet
from tests.tuning.toys import ARM, frame, race_of

_STEP = Journal.step


def test_the_probe_sees_what_many_directions_take(spec, monkeypatch):
    """The first pass compiles, and up to two dozen directions cost as much as one: neither is the slope of all."""
    now, cold = [0.0], [10.0]

    def pushed(backbone, graph, directions, energies):
        now[0] += 1.0 + 0.1 * max(24, len(directions)) + (cold.pop() if cold else 0.0)

    monkeypatch.setattr(arms.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(arms, "tangents", pushed)
    found = measured(Arm(spec), frame(1.0), "cpu", with_tangents=True, workers=1)
    foreseen = Cost(found["features"], found["direction"], found["shared"]).frames(2, 300)
    assert foreseen == pytest.approx(31.0, rel=0.3)


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
    race = race_of(Cost(1e-3, 2e-3), frames=0)
    found, stores = gathered_features(slower, race, ARM)
    assert found.directions == directions
    assert (found.frames == 200) == (times < 50)
    assert len(stores) == len(found.pieces)
    assert gathered_features(slower, race, ARM)[0] == found


def test_energies_of_the_other_frames_are_learned(tuning, spec, monkeypatch):
    """Where the time bears tangents of some frames alone; each feature is made once."""
    arm, cost = Arm(spec), Cost(0.01, 0.01, 0.3)
    frames = [frame(1 + 0.001 * i, energy=(0.005 * i - 0.5) ** 2) for i in range(200)]
    tuning.data = replace(tuning.data, training=frames)
    race = Raced([arm], {arm: cost}, [], Course([arm], 16, 200, 4))
    much, stores = gathered_features(tuning, race, arm)
    assert (much.used, much.directions, much.along) == (200, 4, f"4 of {much.frames}")
    assert much.frames == pytest.approx((27.3 - 4.0) / 0.68, abs=1)
    assert [store.n_structures for store in stores] == [last - first for _, first, last in much.pieces]
    moved = [store.n_directions for store in stores]
    assert sum(moved) == 4 * much.frames
    assert sum(found > 0 for found in moved) == len(much.cuts) - 1
    assert tuning.pace(arm) < 1.0  # as the tangents told, and no energies
    with monkeypatch.context() as patch:
        patch.setattr("mekrr_scale.tuning.state.extract", None)
        assert gathered_features(tuning, race, arm)[0] == much
    search = Search(tuning, arm, much, stores)
    assert search.first["errors"].keys() == {"energy_rmse", "force_rmse"}
    assert (search.score().frames, search.score().directions) == (200, much.along)


@pytest.mark.parametrize(
    ("seconds", "others", "frames"), [(20.0, True, 130), (20.0, False, 77), (9.0, True, 200), (42.0, True, 40)]
)
def test_time_that_fits_leave_goes_into_further_tangents(tuning, seconds, others, frames):
    """42 seconds are left beside the test, of which the last fit takes its share, the more the more rows there are."""
    slower = Slower(tuning.plan, tuning.data, tuning.folder, tuning.journal, tuning.progress)
    race = race_of(Cost(1e-3, 1e-4), frames=0)
    ends = [40, 42, 46, 50, 55, 59, 65, 71, 77, 84, 92, 100, 109, 119, 130, 141, 154, 168, 183, 200]
    much = Amount(40, 4, [0, 40], ends if others else ())

    def further():
        return more_features(slower, race, ARM, much, lambda times: seconds * times, 8.0)

    found = further()
    assert (found.frames, found.directions, found.used) == (frames, 4, 200 if others else frames)
    place = ends.index(frames)
    assert found.cuts == [0, *ends[: place + 1]]
    assert found.others == (ends[place:] if others and frames < 200 else ())
    slower.journal.clock.budget = 8.0  # what was decided stays
    assert further() == found


def test_further_features_are_for_the_model(tuning, spec, monkeypatch):
    """Not for the fits before it: with as many landmarks and the kernel that these chose."""
    arm, cost = Arm(spec), Cost(1e-3, 1e-3)
    frames = [frame(1 + 0.005 * i, energy=(0.005 * i - 0.5) ** 2) for i in range(40)]
    tuning.data = replace(tuning.data, training=frames)
    race = Raced([arm], {arm: cost}, [], Course([arm], 16, 40, 4))
    stores = [tuning.store(arm, cost, 4, 0, 16), tuning.store(arm, cost, "energies", 16, 40)]
    search = Search(tuning, arm, Amount(16, 4, [0, 16], [16, 40]), stores)
    plan, _ = search.run()
    much, found = search.with_more(race, plan)
    assert (much.frames, much.used, much.others) == (40, 40, ())
    assert sum(store.n_directions for store in found) == 160
    assert sum(store.n_structures for store in found) == 40
    monkeypatch.setattr(
        "mekrr_scale.tuning.final.resources", lambda *given: SimpleNamespace(comparing=1.0, seconds=1e6)
    )
    tuning.journal = Journal(tuning.folder / "again", tuning.journal.clock)
    assert Search(tuning, arm, search.amount, stores).with_more(race, plan) == (search.amount, stores)


HOLDER, HELD = (
    Arm(BackboneSpec("sevennet", "gate2", version="7net-0", invariants=kind)) for kind in ("products", "scalars")
)


def test_features_that_another_holds_cost_nothing(tuning):
    assert families([HELD, ARM, HOLDER]) == [[HOLDER, HELD], [ARM]]
    assert [needed(arm, [HOLDER, HELD]) for arm in (HOLDER, HELD)] == [needed(HELD, [HELD]), False] == [True, False]
    tuning.plan = replace(tuning.plan, budget=400.0)
    costs = {arm: Cost(0.25, 0.0) for arm in (HOLDER, HELD, ARM)}
    assert course_of(tuning, [HOLDER, HELD], costs).first == 100
    course = Course([HOLDER, HELD], 16, 200, 4)

    def kept(arm):
        at = [Score(one, 16, "4", {"energy_rmse": 1.0}, 1.0) for one in (HOLDER, arm)]
        return kept_of(tuning, at, at, costs, 200, course)["over"]

    assert not kept(HELD)
    assert kept(ARM)


@pytest.fixture
def pair(tmp_path):
    """Products and scalars of a small network."""
    pytest.importorskip("sevenn")
    network = small_sevennet(tmp_path / "small.pt")
    return [Arm(replace(arm.spec, version=None, checkpoint=network)) for arm in (HOLDER, HELD)]


def test_features_of_one_pass_are_probed_once(tuning, pair):
    holder, held = pair
    tuning.plan = replace(tuning.plan, backbones=(held.spec, holder.spec))
    tuning.data = replace(tuning.data, training=tuning.data.training[:12])
    race = raced(tuning)
    assert list(race.costs) == [held, holder]
    assert race.costs[held] == race.costs[holder]
    assert [tuning.journal.has(f"cost-{arm.slug}") for arm in pair] == [True, False]
    assert {score.arm for score in race.scores} == set(pair)


def test_features_that_another_holds_are_taken_from_it(tuning, pair):
    holder, held = pair
    cost = Cost(1e-3, 1e-3)
    made = tuning.store(holder, cost, 2, 0, 8)
    taken = tuning.store(held, cost, 2, 0, 8)
    assert tuning.journal.step(f"made-{held.slug}-2-0-8", dict)["foreseen"] == 0.0
    assert tuning.pace(held) == tuning.pace(holder)
    assert (taken.n_structures, taken.n_directions) == (made.n_structures, made.n_directions) == (8, 16)
    assert taken.header.backbone["options"] == []
    assert tuning.store(held, cost, 2, 8, 12).header == taken.header  # nobody else has these
    assert tuning.journal.step(f"made-{held.slug}-2-8-12", dict)["foreseen"] > 0.0


@pytest.fixture
def search(tuning, spec):
    """With fifty seconds left, seven of them for the test."""
    arm = Arm(spec)
    tuning.data = replace(tuning.data, training=tuning.data.training[:12])
    return Search(tuning, arm, Amount(12, 2, [0, 12]), [tuning.store(arm, Cost(1e-3, 1e-3), 2, 0, 12)])


@pytest.mark.parametrize(("seconds", "kernels"), [(1.0, [1, 6]), (5.0, [1, 3]), (8.0, [1]), (100.0, [1])])
def test_as_many_kernels_are_tried_as_the_time_allows(search, monkeypatch, seconds, kernels):
    tried = []

    def fitted(stores, plan, progress):
        tried.append(len(plan.kernel.length_scales) * len(plan.kernel.standardize))
        return compare(stores, plan, progress)

    monkeypatch.setattr("mekrr_scale.tuning.final.compare", fitted)
    steps = search.tuning.journal
    monkeypatch.setattr(type(steps), "step", lambda *given: {**_STEP(*given), "seconds": seconds})
    assert search.first["compared"] >= search.kernel["compared"]
    assert tried == kernels

    def again():
        return Search(search.tuning, search.arm, search.amount, search.stores).kernel

    assert again() == search.kernel
    assert tried == kernels
    steps.clock.budget = 2000.0  # more time: what was left out is tried
    assert again()["compared"] <= search.kernel["compared"]
    assert tried == [*kernels, 6][: len(kernels) + (6 not in kernels)]


@pytest.mark.parametrize(("seconds", "kernels"), [(1.0, 6), (2.5, 3), (3.0, 0), (5.0, 3)])
def test_more_landmarks_go_before_more_kernels(tuning, spec, monkeypatch, seconds, kernels):
    """Twice as many, and the last fit with these, take twelve times as long as the first fit: of the 39 seconds that
    are left beside the test, kernels get the rest, and all where that is too long."""
    tuning.data = replace(tuning.data, training=[frame(1 + 0.01 * i) for i in range(30)])
    search = Search(tuning, Arm(spec), Amount(30, 6, [0, 30]), [tuning.store(Arm(spec), Cost(1e-3, 1e-3), 6, 0, 30)])
    tried = []

    def fitted(stores, plan, progress):
        tried.append(len(plan.kernel.length_scales) * len(plan.kernel.standardize))
        return compare(stores, plan, progress)

    monkeypatch.setattr("mekrr_scale.tuning.final.compare", fitted)
    monkeypatch.setattr(Journal, "step", lambda *given: {**_STEP(*given), "seconds": seconds})
    assert search.kernel
    assert tried == [1, kernels][: 1 + bool(kernels)]


@pytest.mark.parametrize(("seconds", "more", "kernels"), [(3.0, 0, 6), (3.0, 1, 3), (8.0, 0, 0)])
def test_kernels_are_compared_in_the_time_that_was_kept_for_landmarks(search, monkeypatch, seconds, more, kernels):
    """Four times nine seconds of 39 were; half of what then is left is kept for further frames, if any lack."""
    dear = SimpleNamespace(comparing=1e6, seconds=1e6)
    monkeypatch.setattr("mekrr_scale.tuning.final.resources", lambda *given: dear)
    monkeypatch.setattr(Journal, "step", lambda *given: {**_STEP(*given), "seconds": seconds})
    search.tuning.data = replace(search.tuning.data, training=search.tuning.data.training * (1 + more))
    _, steps = search.run()
    assert [step["times"] for step in steps] == [1, kernels][: 1 + bool(kernels)]
    assert steps[-1]["compared"] <= steps[0]["compared"]


@pytest.mark.parametrize(("seconds", "grown"), [(8.0, (1600, 2)), (10.0, (1600, 1)), (12.0, (1200, 1)), (20.0, None)])
def test_landmarks_grow_as_far_as_the_time_goes(tuning, spec, monkeypatch, seconds, grown):
    """From 800 to twice as many, more than there are rows, or half as many again, at one length scale or two; 39
    seconds are left beside the test, and the last fit takes two and a half times as long as one."""
    arm, fits = Arm(spec), []

    def fitted(stores, plan, progress):
        fits.append((plan.landmarks.count, len(plan.kernel.length_scales)))
        return compare(stores, plan, progress)

    def foreseen(stores, plan):
        kernels = len(plan.kernel.length_scales) * len(plan.kernel.standardize)
        one = kernels * seconds * plan.landmarks.count / 1600
        return SimpleNamespace(comparing=one, seconds=2.5 * one)

    monkeypatch.setattr("mekrr_scale.tuning.final.compare", fitted)
    monkeypatch.setattr("mekrr_scale.tuning.final.resources", foreseen)

    def step(journal, name, *given):
        """A fit takes what is foreseen."""
        found = _STEP(journal, name, *given)
        kernels = int(name[-1]) if "-of-" in name else 1
        return {**found, "seconds": found.get("foreseen", kernels * seconds * 800 / 1600)}

    frames = [frame(1 + 0.005 * i, energy=(0.005 * i - 0.5) ** 2) for i in range(200)]
    tuning.data = replace(tuning.data, training=frames)
    stores = [tuning.store(arm, Cost(1e-3, 1e-3), 6, 0, 200)]
    monkeypatch.setattr(Journal, "step", step)
    search = Search(tuning, arm, Amount(200, 6, [0, 200]), stores)
    search.run()
    assert [each for each in fits if each[0] > 800][:1] == ([grown] if grown else [])
    assert search.limited == (grown is None)


@pytest.mark.parametrize(("seconds", "count"), [(2.9, 2), (3.1, 1)])
def test_another_leader_leaves_time_for_landmarks(tuning, monkeypatch, seconds, count):
    """Fifty seconds are left, eight of them for the test, twelve fits for twice the landmarks and the model."""
    other = Arm(BackboneSpec("chgnet", "conv2"))
    race = race_of(Cost(0.0, 0.0))
    race = replace(race, leaders=[ARM, other], costs={ARM: Cost(0.0, 0.0), other: Cost(0.0, 0.0)})

    def found(tuning, arm, amount=Amount(16, 4, [0, 16]), stores=()):
        return SimpleNamespace(arm=arm, first={"seconds": seconds, "compared": 1.0}, doubled=12 * seconds)

    monkeypatch.setattr("mekrr_scale.tuning.final.Search", found)
    monkeypatch.setattr("mekrr_scale.tuning.final.gathered_features", lambda *given: (Amount(16, 4, [0, 16]), []))
    monkeypatch.setattr(Tuning, "store", lambda *given: None)
    assert [search.arm for search in in_full(tuning, race)] == [ARM, other][:count]


def test_fits_of_the_race_are_foreseen_as_they_were_measured(tuning):
    """Rows of twice as many frames take twice as long: twelve of the fourteen seconds that are left, or twenty."""
    tuning.plan = replace(tuning.plan, budget=160.0)
    arms = [Arm(BackboneSpec("chgnet", f"conv{i}")) for i in (1, 2)]
    costs, course = dict.fromkeys(arms, Cost(1e-4, 1e-4)), Course(arms, 16, 200, 4)
    for seconds, over in ((3.0, False), (5.0, True)):
        at = [Score(arm, 16, "4", {"energy_rmse": 1.0}, 1.0, seconds=seconds) for arm in arms]
        assert kept_of(tuning, at, at, costs, 32, course)["over"] == over


def test_the_race_notes_what_its_fits_take(tuning, spec):
    arm, ticks = Arm(spec), count()
    tuning.journal = replace(tuning.journal, clock=Clock(tuning.folder / "ticks.json", 1e6, lambda: float(next(ticks))))
    tuning.plan = replace(tuning.plan, backbones=(arm.spec,))
    tuning.data = replace(tuning.data, training=tuning.data.training[:12])
    race = raced(tuning)
    for score in race.scores:
        step = tuning.journal.step(f"score-{score.arm.slug}-{score.frames}", dict)
        assert 0 < score.seconds == step["fit"] < step["seconds"]


def test_features_of_a_leader_that_holds_the_first_are_made(tuning, pair, monkeypatch):
    """One pass gives both, and their fits are compared, the first leader's before."""
    holder, held = pair
    tuning.data = replace(tuning.data, training=tuning.data.training[:12])
    other = Arm(BackboneSpec("chgnet", "conv2"))
    costs = dict.fromkeys((held, other, holder), Cost(1e-3, 1e-3))
    race = Raced([held, other, holder], costs, [], Course([held, other, holder], 12, 12, 2))
    made, order = [], []

    def store(tuning, arm, cost, *piece):
        made.append(arm)
        return object.__new__(FeatureStore)  # which nobody reads

    def found(tuning, arm, amount, stores):
        order.append(arm)
        errors = {"seconds": 1.0, "compared": 1.0 - 0.1 * len(order)}
        return SimpleNamespace(arm=arm, amount=amount, first=errors, doubled=4.0)

    monkeypatch.setattr(Tuning, "store", store)
    monkeypatch.setattr("mekrr_scale.tuning.final.Search", found)
    assert in_full(tuning, race)[0].arm == other
    assert order == [held, holder, other]
    assert list(dict.fromkeys(made)) == [holder, held, other]
