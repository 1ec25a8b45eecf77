"""What rows of ASE's databases say comes back: charges above all, which the guard on charged frames looks at."""

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.errors import StructureError
from mekrr_scale.structures import Electrons, read_structures, write_structure, write_structures

NAMES = ["a.db", "a.json"]


@pytest.mark.parametrize("name", NAMES)
def test_pairs_that_ase_computes_itself_are_those_that_were_written(tmp_path, name):
    pairs = {"charge": 1, "mass": 3.5, "volume": 2.0, "symbols": "none"}
    with ase.db.connect(tmp_path / name) as database:
        database.write(Atoms("H"), **pairs)
        database.write(Atoms("H", charges=[0.5]), charge=-1)
    first, second = read_structures(tmp_path / name)
    assert first.info == pairs
    assert second.info == {"charge": -1}


@pytest.mark.parametrize("name", NAMES)
def test_data_of_others_are_read(tmp_path, name):
    """As OMol25's files have them; what no file of frames could hold is left."""
    data = {"charge": -1, "spin": 2, "homo": [-0.3, -0.2], "ragged": [[1], [2, 3]], "levels": {"a": 1}, "none": None}
    with ase.db.connect(tmp_path / name) as database:
        database.write(molecule("OH"), data=data, source="omol")
        database.write(molecule("OH"))
    found = list(read_structures(tmp_path / name))
    assert found[0].info == {"source": "omol", "charge": -1, "spin": 2, "homo": [-0.3, -0.2]}
    write_structures(tmp_path / "again.xyz", found)
    assert next(read_structures(tmp_path / "again.xyz")).info["charge"] == -1
    seen = Electrons()
    for atoms in found:
        seen.look(atoms)
    with pytest.raises(StructureError, match="frames have charges"):
        seen.document(frozenset())


@pytest.mark.parametrize("name", [*NAMES, "a.traj", "a.xyz"])
def test_info_comes_back_whatever_it_is_called(tmp_path, name):
    """Under names that a row has uses of its own for, too."""
    atoms = molecule("OH")
    atoms.info |= {"charge": 1, "spin": 2, "mass": 3.5, "tags": "radical", "data": 7, "smax": 0.5, "id": "x 7"}
    atoms.info |= {"single": np.float32(0.5), "count": np.int64(3), "flag": np.bool_(True), "list": [1, 2, 3]}
    atoms.info |= {"words": ["a", "b"], "names": np.array(["a", "b"]), "matrix": np.eye(2)}
    write_structure(tmp_path / name, atoms)
    (found,) = read_structures(tmp_path / name)
    assert found.info.keys() == atoms.info.keys()
    for key, value in atoms.info.items():
        assert np.array_equal(found.info[key], value), key


@pytest.mark.parametrize("name", NAMES)
def test_arrays_come_back_and_can_be_changed(tmp_path, name):
    atoms = molecule("OH")
    atoms.arrays |= {"layer": np.array([0.5, 1.5]), "site": np.array(["top", "hollow"])}
    atoms.info["unknown"] = object()  # nothing of it can be kept
    write_structure(tmp_path / name, [atoms, atoms])
    for found in read_structures(tmp_path / name):
        assert "unknown" not in found.info
        found.arrays["layer"] += 1
        assert found.arrays["layer"].tolist() == [1.5, 2.5]
        assert found.arrays["site"].tolist() == ["top", "hollow"]


def test_results_among_the_data_of_others_are_no_labels(tmp_path):
    """They stand beside the results of the row, and would be written, and read again, as its labels."""
    atoms = molecule("OH")
    data = {"energy": -1.0, "forces": np.ones((2, 3)), "homo": -0.3}
    with ase.db.connect(tmp_path / "a.db") as database:
        database.write(atoms, data=data)
        atoms.calc = SinglePointCalculator(atoms, energy=-5.0)
        database.write(atoms, data=data)
    write_structures(tmp_path / "a.xyz", read_structures(tmp_path / "a.db"))
    bare, labelled = read_structures(tmp_path / "a.xyz")
    assert bare.calc is None
    assert (labelled.get_potential_energy(), labelled.info["homo"]) == (-5.0, -0.3)


@pytest.mark.parametrize("format", ["db", "json"])
def test_a_database_of_another_name_is_read_by_its_format(tmp_path, format):
    write_structure(tmp_path / f"a.{format}", molecule("OH"))
    (tmp_path / f"a.{format}").rename(tmp_path / "a.dat")
    (found,) = read_structures(tmp_path / "a.dat", format)
    assert found.get_chemical_formula() == "HO"
