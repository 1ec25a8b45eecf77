"""What stores hold, against the structures that they were made of."""

import ase.io
import numpy as np
import pytest

from mekrr_scale.arrays import RowKind
from mekrr_scale.pipeline import ExtractPlan, extract
from mekrr_scale.store import FeatureStore, drawn_atoms, origins_of, repack, survey
from mekrr_scale.structures import geometry_hash


def test_a_survey(store, toy_structures):
    opened = FeatureStore(store)
    found = survey([opened])
    assert found.whole
    assert sorted(found.n_atoms.tolist()) == sorted(map(len, toy_structures))
    assert sorted(found.energy.tolist()) == pytest.approx(sorted(a.get_potential_energy() for a in toy_structures))
    forces = np.concatenate([np.linalg.norm(atoms.get_forces(), axis=1) for atoms in toy_structures])
    assert np.sort(found.force) == pytest.approx(np.sort(forces))
    assert found.forced.all()
    assert found.stressed.sum() == sum(bool(atoms.pbc.any()) for atoms in toy_structures)
    assert found.directions[RowKind.FORCE] + found.directions[RowKind.STRESS] == opened.n_directions
    assert not any(found.configs)
    twice = survey([opened, opened])
    assert len(twice.ids) == 2 * len(found.ids)


def test_drawn_atoms_are_those_of_the_store(store):
    opened = FeatureStore(store)
    known = {(run.z, row.tobytes()) for batch in opened for run in batch.runs for row in run.features.double().numpy()}
    found = drawn_atoms([opened], 100)
    assert {(int(z), row.tobytes()) for z, row in zip(found.species, found.features, strict=True)} <= known
    assert set(found.species.tolist()) == set(opened.species)
    assert set(found.structures.tolist()) <= {int(i) for batch in opened for i in batch.ids}
    again = drawn_atoms([opened], 100)
    assert np.array_equal(found.features, again.features)


def test_origins_lead_back_to_the_file(store, toy_structures, toy_file):
    opened = FeatureStore(store)
    found = origins_of([opened], [int(i) for batch in opened for i in batch.ids])
    assert len(found) == len(toy_structures)
    for item in found.values():
        assert item.source == str(toy_file)
        assert item.geometry == geometry_hash(toy_structures[item.index])
        assert item.name == f"structure {item.index} of {toy_file}"


def test_names_are_places_in_files(tmp_path, toy_structures, spec):
    """Of several files, one with a frame that cannot be used at its start; written anew in other shards as well."""
    unusable = toy_structures[0].copy()  # no energy
    contents = {"a.xyz": [*toy_structures[:4]], "b.xyz": [unusable, *toy_structures[4:9]]}
    for name, frames in contents.items():
        ase.io.write(tmp_path / name, frames, format="extxyz")
    files = [tmp_path / name for name in contents]
    whole = extract(files, tmp_path / "s", ExtractPlan(spec, shard_bytes=1)).store
    packed = repack(whole.path, tmp_path / "packed", keep=lambda record: record.index != 1)
    assert packed.n_structures == whole.n_structures - 1 == 8
    for opened in (whole, packed):
        found = origins_of([opened], [int(i) for batch in opened for i in batch.ids])
        assert len(found) == opened.n_structures
        for item in found.values():
            frames = ase.io.read(item.source, ":")
            assert item.geometry == geometry_hash(frames[item.index])
    assert [(info.start, info.stop) for info in packed.shards] == [(0, 8)]
