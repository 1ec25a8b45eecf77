"""Labels of the wrong shape, and maps of species that are none."""

import numpy as np
import pytest
from ase.build import bulk, molecule

from mekrr_scale.errors import ConfigError, StructureError
from mekrr_scale.structures import LabelKeys, build_graph, parse_species_map, read_labels


@pytest.mark.parametrize(
    ("label", "value", "message"),
    [
        ("energy", np.zeros(2), r"the energy has shape \(2,\), one number was expected"),
        ("energy", "1.0 2.0", "the energy is '1.0 2.0', one number was expected"),
        ("forces", np.zeros((2, 2)), r"forces have shape \(2, 2\), expected \(2, 3\)"),
        ("stress", np.zeros(5), r"the stress has shape \(5,\), expected 6 \(Voigt\) or 3 x 3"),
    ],
)
def test_shapes(label, value, message):
    atoms = bulk("Si")
    atoms.info |= {"e": -1.0, label[0]: value}
    with pytest.raises(StructureError, match=message):
        read_labels(atoms, LabelKeys("e", "f" if label == "forces" else None, "s" if label == "stress" else None))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Si:Ge,C:Ge", "gives Ge twice"),
        ("Si:Ge,Si:Sn", "takes Si twice; map it in two steps"),
        ("Si", "'' is no element; write source:target"),
        ("Xx:Si", "'Xx' is no element"),
    ],
)
def test_maps_of_species(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_species_map(text)


def test_overlapping_atoms_are_named():
    water = molecule("H2O")
    water.positions[2] = water.positions[1] + 1e-4
    with pytest.raises(StructureError, match=r"atoms 1 and 2 overlap \(0.000 angstrom apart\)"):
        build_graph(water, 4.0)
