"""The study of settings: a real one on toy features, what is ranked, and that nothing is computed twice."""

import itertools
import sys
from dataclasses import replace

import ase.io
import pytest

from benchmarks import __main__ as program
from benchmarks import sets
from benchmarks.data import AbsentDataError
from benchmarks.measuring import cpu_seconds
from benchmarks.records import Records
from benchmarks.sets import DataSet
from benchmarks.study import command, ranking, running
from benchmarks.study.settings import BASE, FITS, LARGE, SETTINGS, Features, of_size, varied
from mekrr_scale.models import Potential
from mekrr_scale.pipeline import ExtractPlan, evaluate, extract, fit
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import geometry_hash, read_structures

TOY = DataSet("toy", ("waters.xyz", "methanes.xyz"), tested=4, directions=4)


@pytest.fixture
def toy(tmp_path, monkeypatch, toy_structures, spec):
    """Two files of development data, whose features are a small SchNet's."""
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path))
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    waters, methanes = ([atoms for atoms in toy_structures if len(atoms) == size] for size in (3, 5))
    ase.io.write(tmp_path / "waters.xyz", [*waters, waters[0]], format="extxyz")
    ase.io.write(tmp_path / "methanes.xyz", methanes, format="extxyz")
    monkeypatch.setattr(command, "SETS", {"toy": TOY})
    monkeypatch.setattr(command, "SIZES", {"small": 8})
    monkeypatch.setattr(Features, "spec", lambda self: spec if self.invariants == "scalars" else None)
    small = replace(BASE, count=20, features=Features())
    wanted = {
        "base": small, "l = 4x": replace(small, length="4x"), "norms": varied(invariants="norms"),
        "uniform": replace(small, landmarks="uniform", count=1000), "by stress": replace(small, criterion="0,0,1"),
    }  # fmt: skip
    monkeypatch.setattr(command, "chosen", lambda names: wanted)
    return tmp_path


def test_frames_are_disjoint_unique_and_from_all_files(toy):
    fitted, tested = (list(read_structures(path)) for path in (TOY.frames(8), TOY.test_frames()))
    assert {len(atoms) for atoms in fitted[:2]} == {3, 5}  # the files take turns
    names = [geometry_hash(atoms) for atoms in (*fitted, *tested)]
    assert len(names) == len(set(names)) == 12  # the copy of a water is left out
    learned, valid = (list(read_structures(path)) for path in TOY.split(8))
    assert [len(learned), len(valid)] == [6, 2]
    assert [geometry_hash(atoms) for atoms in (*learned, *valid)] == names[:8]
    with pytest.raises(ValueError, match="toy has 8 frames for fit9, not 9"):
        TOY.frames(9)


def test_a_file_of_its_own_for_the_test_shares_nothing_with_the_training(toy):
    apart = DataSet("apart", ("waters.xyz",), tested=3, test="waters.xyz")
    fitted, tested = ({geometry_hash(atoms) for atoms in read_structures(path)} for path in
                      (apart.frames(apart.most), apart.test_frames()))  # fmt: skip
    assert (len(fitted), len(tested), len(fitted & tested)) == (3, 3, 0)


def test_study_runs_resumes_and_shows(toy, monkeypatch, capsys):
    given = ["--results", str(toy / "lines.jsonl"), "--figure", str(toy / "study.png")]
    command.main(given)
    told = capsys.readouterr().out
    assert "left out: sevennet gate1+gate2: this package has no invariants norms" in told
    lines = Records(toy / "lines.jsonl").all()
    assert [line["name"] for line in lines.values()] == ["base", "l = 4x", "uniform", "by stress"]
    assert "| l = 4x | 1 |" in told
    by_name = {line["name"]: line for line in lines.values()}
    assert by_name["uniform"]["landmarks"] == 32  # every atom once: four waters, four methanes
    assert "refused: toy 8, by stress" in told  # stresses are not there to choose by
    assert "test" not in by_name["by stress"]
    assert (toy / "study.png").stat().st_size > 1000
    monkeypatch.setattr(command, "measured", lambda *_: pytest.fail("computed twice"))
    command.main(given)
    assert capsys.readouterr().out.partition("###")[2] == told.partition("###")[2]
    assert Records(toy / "lines.jsonl").all() == lines


def test_a_line_holds_the_errors_of_the_fit_and_of_its_predictions(toy, spec):
    """With all directions of structures of one size, the forces' RMSE is that of the components."""
    waters = DataSet("waters", ("waters.xyz",), tested=1, directions=9)
    setting = replace(BASE, count=20)
    line = running.measured("base", waters, 5, setting)
    store = FeatureStore(extracted(waters.frames(5), toy / "again", spec))
    report = fit(store, setting.plan())
    assert line["cv"]["force"] == pytest.approx(report.metrics()["force_rmse"], rel=1e-6)
    whole = FeatureStore(extracted(waters.test_frames(), toy / "whole", spec))
    expected = evaluate(Potential(report.model), read_structures(waters.test_frames())).metrics()
    found = running.held_out(report.model, whole)
    assert found["energy"] == pytest.approx(expected["energy_rmse"], rel=5e-3)
    assert found["energy_mae"] == pytest.approx(expected["energy_mae"], rel=5e-3)
    assert found["force"] == pytest.approx(expected["force_rmse"], rel=5e-3)


def extracted(frames, folder, spec):
    extract(frames, folder, ExtractPlan(spec, derivatives="all"))
    return folder


def test_cost_of_an_extraction_that_was_ended_is_added(toy, monkeypatch):
    clock = itertools.count(0.0, 10.0)
    monkeypatch.setattr(running, "cpu_seconds", lambda: next(clock))
    whole = running.extract

    def ended(frames, folder, plan, progress):
        progress.advance()
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "extract", ended)
    with pytest.raises(KeyboardInterrupt):
        running.kept_store(TOY.frames(4), Features(), along=2)
    monkeypatch.setattr(running, "extract", lambda frames, folder, plan, progress: whole(frames, folder, plan))
    assert running.kept_store(TOY.frames(4), Features(), along=2)[1] == 20  # ten before, ten now
    monkeypatch.setattr(running, "extract", lambda *_, **__: pytest.fail("computed twice"))
    assert running.kept_store(TOY.frames(4), Features(), along=2)[1] == 20


def test_directions_at_equal_cost():
    data = replace(TOY, directions=16)
    costs = {share: share * (7 + Features(share=share).along(data)) for share in (0.5, 1.0, 2.0)}
    assert costs == {share: pytest.approx(23, rel=0.1) for share in costs}
    assert Features(share=9.0).along(data) == 1
    assert Features(directions="all").along(data) == "all"


def test_settings_that_fit_alone_share_the_features_of_the_base():
    assert {setting.features for setting in FITS.values()} == {BASE.features}
    keys = [setting.identity() for setting in SETTINGS.values()]
    assert all(one != other for one, other in itertools.combinations(keys, 2))
    assert set(LARGE) == set(of_size(SETTINGS, 100)) < set(of_size(SETTINGS, 25)) == set(SETTINGS)
    for setting in SETTINGS.values():
        assert setting.plan().solver.ridges[0] < 1e-13


def line(name, cv, test, set_="s", size=25):
    sides = {side: {"energy": pair[0], "force": pair[1]} for side, pair in (("cv", cv), ("test", test))}
    costs = {"extraction": 10.0, "fit": 2.0}
    return {"name": name, "set": set_, "size": size, "chosen": {"ridge": 1e-12}, "cpu": costs, **sides}


def test_ranking_by_hand():
    """``flattered`` is taken by cross-validation, ``honest`` is best."""
    (group,) = ranking.groups(
        [
            line("base", (1.0, 100.0), (1.0, 100.0)),
            line("honest", (0.5, 50.0), (0.5, 50.0)),
            line("flattered", (0.4, 40.0), (2.0, 50.0)),
            line("of another set", (1.0, 1.0), (1.0, 1.0), "without base"),
        ]
    )
    assert group.ranked("cv") == ["flattered", "honest", "base"]
    assert group.ranked("test") == ["honest", "base", "flattered"] or group.relative("flattered", "test") == 1.0
    assert group.regret() == pytest.approx(2.0)  # sqrt(2 * 0.5) against 0.5
    assert group.regret("energy") == pytest.approx(4.0)
    assert group.agreement("energy") == pytest.approx(-0.5)
    assert group.misled()["flattered"] == pytest.approx(2.5)
    _, rows = ranking.misleading([group])
    assert [row[2] for row in rows] == ["flattered"]
    _, rows = ranking.effects([group])
    assert rows[0][:5] == ["honest", 1, 0.5, 0.5, 0.5]
    _, rows = ranking.ends([group])
    assert rows[0][-2:] == [3, 0]


def test_long_benchmarks_run_by_name_alone(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "study", "--sets", "3bpa", "--data", str(tmp_path / "none")])
    assert program.main() == 1
    assert f"not in {tmp_path / 'none'}" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["benchmarks", "kernel_rows", "study"])
    with pytest.raises(SystemExit):
        program.main()
    assert "it is run alone" in capsys.readouterr().err


def test_sets_that_are_absent_are_left_out_unless_asked_for(toy, monkeypatch, capsys):
    absent = DataSet("absent", ("nowhere.xyz",))
    monkeypatch.setattr(command, "SETS", {"toy": TOY, "absent": absent})
    command.main(["--report", "--results", str(toy / "none.jsonl")])
    assert "left out: nowhere.xyz is not in" in capsys.readouterr().out
    with pytest.raises(AbsentDataError):
        command.main(["--report", "--sets", "absent"])


def test_cpu_seconds_count():
    begin = cpu_seconds()
    while cpu_seconds() == begin:
        sum(range(1000))
    assert cpu_seconds() > begin


def test_the_sets_of_the_issue_are_there():
    assert {"3bpa", "acac", "ethanol", "hcoo", "si", "mo", "cu", "monbtaw", "wbe", "ptco", "water"} == set(sets.SETS)
