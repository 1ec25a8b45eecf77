"""Properties through the calculator, by matcalc and phonopy; copper by EMT says what is right."""

import warnings

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from mekrr_scale.models import MekrrCalculator
from tests.docs.pages import DOCS, python_blocks

matcalc = pytest.importorskip("matcalc")


@pytest.fixture(scope="module")
def calculator(copper_model):
    return MekrrCalculator(copper_model, dtype="float64")


def quietly(call, *args):
    """Without the warnings of the programs themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args)


def relaxed(calculator):
    return quietly(matcalc.RelaxCalc(calculator, fmax=1e-3).calc, bulk("Cu", a=3.65))


def test_lattice_and_bulk_modulus(calculator):
    found, right = relaxed(calculator), relaxed(EMT())
    assert found["a"] == pytest.approx(right["a"], rel=2e-3)
    moduli = []
    for given, start in ((calculator, found), (EMT(), right)):
        equation = matcalc.EOSCalc(given, relax_structure=False, max_abs_strain=0.02, n_points=7)
        moduli.append(float(quietly(equation.calc, start["final_structure"])["bulk_modulus_bm"]))
    assert moduli[0] == pytest.approx(moduli[1], rel=0.1)  # GPa


def test_elastic_tensor(calculator):
    tensors = []
    for given in (calculator, EMT()):
        elastic = matcalc.ElasticityCalc(given, relax_structure=False, units_GPa=True, shear_strains=(-0.01, 0.01))
        found = quietly(elastic.calc, relaxed(given)["final_structure"])["elastic_tensor"].voigt
        tensors.append([np.mean(np.diag(found)[:3]), found[0][1], np.mean(np.diag(found)[3:])])
    np.testing.assert_allclose(tensors[0], tensors[1], rtol=0.15)


def test_phonons(calculator):
    highest = []
    for given in (calculator, EMT()):
        phonons = matcalc.PhononCalc(
            given, supercell_matrix=2 * np.eye(3), relax_structure=False, write_phonon=False, t_step=500
        )
        found = quietly(phonons.calc, relaxed(given)["final_structure"])
        highest.append(found["frequencies"].max())
        assert found["frequencies"].min() > -0.1  # THz: no imaginary mode
    assert highest[0] == pytest.approx(highest[1], rel=0.05)


def test_the_page_runs(copper_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.mekrr").symlink_to(copper_model)
    page = DOCS / "engines/properties.md"
    for line, code in [found for found in python_blocks(page) if "janus_core" not in found[1]]:
        quietly(exec, compile("\n" * line + code, str(page), "exec"), {})
    modulus, *_, by_matcalc, by_phonopy = capsys.readouterr().out.splitlines()
    assert modulus.endswith("GPa")
    assert 120 < float(modulus.split()[0]) < 150
    assert float(by_phonopy.split()[0]) == pytest.approx(float(by_matcalc.split()[0]), rel=0.02)
