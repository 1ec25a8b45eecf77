"""The page: its numbers against obvious twins, what it loads and escapes, how large it is, how a browser takes it."""

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from mekrr_scale.arrays import KINDS, ByKind, RowKind
from mekrr_scale.errors import ConfigError
from mekrr_scale.pipeline import ExtractPlan, Validation, evaluate, extract, fit
from mekrr_scale.regression import UNITS
from mekrr_scale.report import (
    Results,
    html_page,
    read_page,
    results_beside,
    results_of,
    save_figures,
    save_html,
    with_evaluation,
    with_tests,
    write_page,
)
from mekrr_scale.report.sections import sections
from mekrr_scale.store import FeatureStore
from mekrr_scale.structures import read_structures

matplotlib.use("Agg")
ODD = "<script>alert(\"1\")</script> & 'x'"
ELEMENTS = ("html", "head", "body", "main", "section", "table", "figure", "svg", "p", "ul", "li", "nav", "style")


@pytest.fixture(scope="module")
def tested(model_file, toy_file):
    return evaluate(model_file, toy_file, uncertainty=True)


@pytest.fixture(scope="module")
def results(fitted, store, tested, toy_file):
    found = results_of(fitted, [store], "toy.mekrr")
    return with_evaluation(found, tested, "toy.xyz", list(read_structures(toy_file)))


@pytest.fixture(scope="module")
def html(results):
    return html_page(results)


def held(results):
    return next(each for each in results.measured if not each.test)


def test_errors_are_those_of_the_fit(results, fitted):
    energy = held(results).quantity("energy")
    reference, predicted = fitted.reference.numpy(), fitted.predicted.numpy()
    error = 1e3 * (predicted - reference)
    assert energy.unit == "meV/atom"
    assert energy.total.structures == energy.total.rows == len(error) == held(results).structures
    assert energy.total.mae == pytest.approx(np.abs(error).mean())
    assert energy.total.rmse == pytest.approx(np.sqrt((error**2).mean()))
    spread = ((1e3 * (reference - reference.mean())) ** 2).sum()
    assert energy.total.r2 == pytest.approx(1 - (error**2).sum() / spread)
    assert energy.total.rmse == pytest.approx(fitted.metrics()["energy_rmse"])
    for name in ("force", "stress"):
        found = held(results).quantity(name)
        assert found.total.rmse == pytest.approx(fitted.metrics()[f"{name}_rmse"], rel=0.02)  # shares are structures'
        low, high = found.total.rmse_95
        assert low < found.total.rmse < high


def test_rows_are_held_out_structure_by_structure(fitted, store):
    """Each under the model of the folds that miss it, in the order of the store."""
    rows = fitted.rows[RowKind.ENERGY]
    found = dict(zip(rows.ids.tolist(), rows.reference.tolist(), strict=True))
    baseline = fitted.model.baseline
    for batch in FeatureStore(store):
        rest = (batch.energy - batch.counts(baseline.species).double() @ baseline.energies) / batch.n_atoms
        for number, value in zip(batch.ids.tolist(), rest.tolist(), strict=True):
            assert found[number] == pytest.approx(value, abs=1e-9)
    assert set(rows.fold.tolist()) == {0, 1, 2}
    assert rows.interval.isfinite().all() == (fitted.model.posterior is not None)


def test_test_errors_are_those_of_the_evaluation(results, tested):
    test = next(each for each in results.measured if each.test)
    metrics = tested.metrics()
    assert test.structures == 24
    assert test.quantity("energy").total.mae == pytest.approx(metrics["energy_mae"])
    assert test.quantity("force").total.rmse == pytest.approx(metrics["force_rmse"])
    by_element = {name: score.mae for name, score in test.quantity("force").by_element.items()}
    assert by_element == pytest.approx({name: mae for name, (_, mae, _) in tested.force_errors_by_species().items()})
    largest = test.worst[0]
    squares = (tested.forces_predicted - tested.forces) ** 2
    bounds = np.cumsum(tested.n_atoms)[:-1]
    each = [1e3 * np.sqrt(part.mean()) for part in np.split(squares, bounds)]
    assert largest.error == pytest.approx(max(each))
    assert largest.name == f"structure {int(np.argmax(each))} of toy.xyz"
    assert len(largest.picture.numbers) == tested.n_atoms[int(np.argmax(each))]
    assert len(test.quantity("energy").rows.grade) == 24


def test_force_rows_stay_with_their_structures_where_one_has_none(results, model_file, toy_structures):
    """Errors are counted, drawn and ranked by structure, as where all have forces."""
    frames = [atoms.copy() for atoms in toy_structures[:8]]
    for place, (atoms, known) in enumerate(zip(frames, toy_structures, strict=False)):
        labels = {"energy": known.get_potential_energy(), **({} if place == 2 else {"forces": known.get_forces()})}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        atoms.info["config_type"] = "ab"[place % 2]
    rest = [*frames[:2], *frames[3:]]
    found, expected = (
        with_evaluation(results, evaluate(model_file, given, uncertainty=True), "t", given).measured[-1]
        for given in (frames, rest)
    )
    assert found.quantity("energy").total.structures == found.structures == 8
    mine, its = found.quantity("force"), expected.quantity("force")
    assert mine.total.structures == 7
    assert mine.rows.grade == pytest.approx(its.rows.grade, rel=1e-3)
    assert mine.total.rmse_95 == pytest.approx(its.total.rmse_95, rel=1e-4)
    rmse = {name: score.rmse for name, score in its.by_config.items()}
    assert list(rmse) == ["a", "b"]
    assert {name: score.rmse for name, score in mine.by_config.items()} == pytest.approx(rmse, rel=1e-4)
    errors = [each.error for each in expected.worst]
    assert {each.quantity for each in found.worst} == {"force"}
    assert [each.error for each in found.worst] == pytest.approx(errors, rel=1e-4)
    places = [int(each.name.split()[1]) for each in expected.worst]
    assert [each.name for each in found.worst] == [f"structure {at + (at >= 2)} of t" for at in places]


@pytest.mark.parametrize("choice", ["", "@:12"])
def test_pictures_are_of_the_structures_that_were_fitted(toy_file, spec, small_plan, tmp_path, choice):
    """Read again from their file, of which frames may have been chosen."""
    extract(f"{toy_file}{choice}", tmp_path / "store", ExtractPlan(spec, derivatives=2))
    plan = replace(small_plan, validation=Validation(folds=2))
    found = results_of(fit(tmp_path / "store", plan), [tmp_path / "store"])
    frames = list(read_structures(f"{toy_file}{choice}"))
    for worst in held(found).worst:
        place = int(worst.name.split()[1])
        assert worst.picture.numbers == frames[place].numbers.tolist()
        np.testing.assert_allclose(worst.picture.positions, frames[place].positions, atol=1e-3)


def test_data_are_those_of_the_store(results, store, toy_structures):
    data, opened = results.data, FeatureStore(store)
    assert (data.structures, data.atoms) == (24, opened.n_atoms)
    symbols = [symbol for atoms in toy_structures for symbol in atoms.get_chemical_symbols()]
    assert {name: atoms for name, (atoms, _) in data.elements.items()} == {s: symbols.count(s) for s in set(symbols)}
    assert data.elements["O"][1] == sum("O" in atoms.symbols for atoms in toy_structures)
    forces = np.concatenate([np.linalg.norm(atoms.get_forces(), axis=1) for atoms in toy_structures])
    histogram = next(each for each in data.histograms if "force" in each.about)
    assert sum(histogram.counts) == len(forces)
    assert histogram.edges[-1] == pytest.approx(UNITS["force"].factor * forces.max())
    assert results.folds.count == 3
    assert sum(results.folds.sizes) == 24
    assert "trajectories" in " ".join(results.folds.remarks)


def test_labels_that_were_not_learned_from_are_named(fitted, store):
    solution = replace(fitted.solution, weights=ByKind.of({RowKind.ENERGY: 1.0}, 0.0))
    found = results_of(replace(fitted, solution=solution), [store])
    assert set(found.data.used) == {"energy"}
    assert "forces of 24 structures: their rows have weight 0" in found.data.ignored


def test_learning_curves_end_at_the_cross_validated_errors(results, fitted):
    for curve in results.curves:
        assert curve.sizes == sorted(curve.sizes)
        assert curve.errors[-1] == pytest.approx(fitted.metrics()[f"{curve.quantity}_rmse"], rel=1e-4)
        assert 0 <= curve.law.exponent <= 1
        assert curve.law.at(curve.sizes[-1]) == pytest.approx(curve.errors[-1])
    assert {curve.quantity for curve in results.curves} == {"energy", "force", "stress"}


def test_what_more_data_give_is_told_by_the_middle_fold(results, fitted, store):
    for curve in results.curves:
        kind = next(kind for kind, info in KINDS.items() if info.name == curve.quantity)
        before, last = (np.array(point.folds[kind]) for point in fitted.solution.curve[-2:])
        sizes = curve.sizes[-1] / curve.sizes[-2]
        slopes = np.log(before / last) / np.log(sizes)
        assert curve.law.exponent == pytest.approx(np.clip(np.nanmedian(slopes), 0, 1))
    old = [replace(point, folds=None) for point in fitted.solution.curve]  # as states of 0.1.0 are
    found = results_of(replace(fitted, solution=replace(fitted.solution, curve=old)), [store]).curves
    for curve in found:
        slope = np.polyfit(np.log(curve.sizes[-2:]), np.log(curve.errors[-2:]), 1)[0]
        assert curve.law.exponent == pytest.approx(min(max(-slope, 0.0), 1.0))


def test_the_map_lies_in_the_plane_of_largest_variance(results):
    chart = results.chart
    x, y = np.array(chart.x), np.array(chart.y)
    assert x.var() > y.var() > 0
    assert abs(np.corrcoef(x, y)[0, 1]) < 1e-3
    assert 0 < chart.explained[1] < chart.explained[0] < 1
    assert len(chart.species) == len(chart.error) == len(chart.test) == len(x)


def test_it_loads_nothing_and_escapes_what_users_name(results):
    odd = results.but(
        about=replace(results.about, name=ODD), data=replace(results.data, configs={ODD: 3, "b": 1}, stores=[ODD]),
        measured=[replace(each, name=f"{ODD}{place}") for place, each in enumerate(results.measured)],
        warnings=[ODD], remarks=[ODD], chart=replace(results.chart, test=[ODD, *results.chart.test[1:]]),
    )  # fmt: skip
    text = html_page(odd)
    assert "http" not in text
    assert not re.search(r"\b(src|srcset|@import)\b|url\((?!#)", text)
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in re.findall(r'href="([^"]*)"', text))
    assert "<script>alert" not in text
    assert text.count("<script") == 1  # the numbers, which are no program
    assert "&lt;script&gt;alert" in text


def test_it_is_well_formed_and_not_large(html):
    opened = []

    class Balance(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag in ELEMENTS:
                opened.append(tag)

        def handle_endtag(self, tag):
            if tag in ELEMENTS:
                assert opened.pop() == tag

    parser = Balance()
    parser.feed(html)
    assert not opened
    assert len(html.encode()) < 5_000_000
    identifiers = re.findall(r'\bid="([^"]+)"', html)
    doubled = {each for each in identifiers if identifiers.count(each) > 1 and not each[-1].isdigit()}
    assert not doubled
    for word in ("prefers-color-scheme: dark", "@media print", "currentColor"):
        assert word in html


def test_every_section_is_there(results):
    made = {section.anchor for section in sections(results)}
    expected = {"summary", "data", "validation", "errors", "learning", "candidates", "map", "worst"}
    assert expected <= made
    assert ("calibration" in made) == any(q.rows.interval for each in results.measured for q in each.quantities)


def test_the_numbers_come_back(results, tmp_path):
    save_html(results, tmp_path / "p.html")
    assert read_page(tmp_path / "p.html") == Results.of_json(results.to_json())
    assert json.loads(results.to_json())["schema"] == results.schema
    (tmp_path / "other.html").write_text("<html></html>")
    with pytest.raises(ConfigError, match="is no page of mekrr-scale's; name one that fit or report wrote"):
        read_page(tmp_path / "other.html")
    with pytest.raises(ConfigError, match=r"is there already and is no such file of mekrr-scale's \(a page\)"):
        save_html(results, tmp_path / "other.html")
    save_html(results, tmp_path / "p.html")  # its own


def test_many_rows_are_listed_in_part(results):
    energy = held(results).quantity("energy")
    count = 60_000
    rng = np.random.default_rng(0)
    reference = rng.normal(size=count).round(4).tolist()
    rows = replace(
        energy.rows, structure=list(range(count)), reference=reference, predicted=reference,
        interval=[1.0] * count, grade=[],
    )  # fmt: skip
    many = replace(energy, rows=replace(rows, structure=rows.structure[:4000], reference=reference[:4000],
                                        predicted=reference[:4000], interval=[1.0] * 4000))  # fmt: skip
    start = time.perf_counter()
    text = html_page(results.but(measured=[replace(held(results), quantities=[many])]))
    assert "a random 4000 of" in text
    assert len(text.encode()) < 5_000_000
    assert time.perf_counter() - start < 20


def test_a_page_beside_the_model_is_taken_where_it_is_of_that_model(fitted, store, tmp_path, toy_file):
    fitted.model.save(tmp_path / "m.mekrr")
    assert results_beside(fitted.model, tmp_path / "m.mekrr").data is None
    write_page(fitted, [store], tmp_path / "m.html", name="m.mekrr")
    found = results_beside(fitted.model, tmp_path / "m.mekrr")
    assert found.data.structures == 24
    with_test = with_tests(found, fitted.model, [toy_file])
    assert [each.name for each in with_test.measured] == ["cross-validation", "toy.xyz"]
    assert set(with_test.chart.test) == {"", "toy.xyz"}
    trained = with_test.chart.test.count("")
    assert list(with_test.chart.error[:trained]) == list(found.chart.error)
    save_html(found.but(about=replace(found.about, coefficients="another")), tmp_path / "m.html")
    assert results_beside(fitted.model, tmp_path / "m.mekrr").data is None


def test_tests_of_one_name_are_told_apart(results, fitted, toy_structures, tmp_path):
    files = [tmp_path / folder / "test.xyz" for folder in "ab"]
    for path, frames in zip(files, (toy_structures[:2], toy_structures[2:5]), strict=True):
        path.parent.mkdir()
        write(path, frames, format="extxyz")
    found = with_tests(results, fitted.model, files)
    assert {each.name: each.structures for each in found.measured[-2:]} == {str(files[0]): 2, str(files[1]): 3}


def test_figures_as_files(results, tmp_path):
    written = save_figures(results, tmp_path / "figures")
    assert written
    assert all(path.read_text().startswith("<?xml") for path in written)
    assert len({path.name for path in written}) == len(written)


@pytest.mark.slow
def test_the_commands_write_it(run, store, toy_file, tmp_path):
    code, _, err = run(
        "fit", "--store", store, "-o", "m.mekrr", "--landmarks", 40, "--solver", "direct", "--ridge", "1e-8,1e-6",
        "--length-scale", "2x", "--baseline", "composition", "--validate", 3,
    )  # fmt: skip
    assert code == 0, err
    assert "page m.html" in err + _
    code, _, err = run("report", "m.mekrr", "--test", toy_file, "-o", "r.html", "--plot", "figures", "--json", "n.json")
    assert code == 0, err
    page = read_page(tmp_path / "r.html")
    assert [each.name for each in page.measured] == ["cross-validation", "toy.xyz"]
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert numbers["measured"][1]["quantities"][0]["total"]["rows"] == 24
    assert len(list((tmp_path / "figures").iterdir())) > 8
    code, _, err = run("evaluate", "m.mekrr", toy_file, "--report", "e.html")
    assert code == 0, err
    assert read_page(tmp_path / "e.html").measured[1].structures == 24
    assert KINDS[RowKind.ENERGY].unit.text == page.measured[1].quantities[0].unit
    code, _, err = run("report", "m.mekrr", "--test", "nowhere.xyz")
    assert (code, "there is no file nowhere.xyz" in err) == (3, True)
    (tmp_path / "m.html").unlink()
    run("fit", "--store", store, "-o", "m.mekrr", "--landmarks", 40, "--validate", 3, "--no-report", "--ridge", "1e-8")
    assert not (tmp_path / "m.html").exists()


CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to look at pages with")
def test_a_browser_has_nothing_to_complain_of(html, tmp_path):
    """Nothing on its console, and everything within the width of a laptop."""
    (tmp_path / "p.html").write_text(html)
    asks = (
        "<script>const wide = document.documentElement.scrollWidth; document.title = 'width ' + wide + ' of ' + "
        "innerWidth;</script></body>"
    )
    (tmp_path / "q.html").write_text(html.replace("</body>", asks))
    options = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    seen = subprocess.run(
        [*options, "--enable-logging=stderr", "--v=0", "--window-size=1280,800", "--dump-dom", f"file://{tmp_path}/q.html"],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert "CONSOLE" not in seen.stderr
    wide, inner = map(int, re.search(r"<title>width (\d+) of (\d+)</title>", seen.stdout).groups())
    assert wide <= inner
    subprocess.run(
        [*options, f"--print-to-pdf={tmp_path / 'p.pdf'}", f"file://{tmp_path}/p.html"],
        capture_output=True, timeout=120, check=False, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert (tmp_path / "p.pdf").read_bytes().startswith(b"%PDF")
