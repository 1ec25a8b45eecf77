"""Exported models in metatomic's calculator of ASE's."""

import numpy as np
from ase.calculators.calculator import all_changes

ELSEWHERE = """
import sys
from ase.build import bulk
from metatomic_ase import MetatomicCalculator
atoms = bulk("CO", "rocksalt", a=4.2)
atoms.calc = MetatomicCalculator("moved.pt", device="cpu", uncertainty_threshold=None)
print(repr(atoms.get_potential_energy()))
assert not any(name.startswith(("mekrr_scale", "sevenn", "mace", "e3nn")) for name in sys.modules)
"""


def in_ase(path, **given):
    """The file in metatomic's calculator of ASE's, which looks at all that goes in and comes out."""
    from metatomic_ase import MetatomicCalculator

    return MetatomicCalculator(path, device="cpu", check_consistency=True, uncertainty_threshold=None, **given)


def asked(calculator, atoms, name, kind, **given):
    """One output, of systems or atoms."""
    from metatomic.torch import ModelOutput

    wanted = ModelOutput(unit="" if name == "feature" else "eV", sample_kind=kind)
    return calculator.run_model(atoms, {name: wanted}, **given)[name].block().values


def compare(theirs, mine, cells):
    for atoms in cells:
        properties = ["energy", "forces", "energies", *(["stress"] if atoms.pbc.all() else [])]
        found = []
        for calculator in (theirs, mine):
            calculator.calculate(atoms.copy(), properties, all_changes)  # at once
            found.append({name: calculator.results[name] for name in properties})
        for name in properties:
            np.testing.assert_allclose(*(each[name] for each in found), rtol=0, atol=1e-8 if name == "stress" else 1e-9)
