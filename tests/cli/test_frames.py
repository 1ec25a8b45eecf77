"""Commands take some of a file's frames, and several files; what frames carry goes through them."""

import json
import shutil
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase.constraints import FixAtoms
from ase.io import read

from mekrr_scale.structures import write_structures


@pytest.fixture
def frames(toy_structures, tmp_path):
    """A file of frames that carry something, with labels under ASE's and other names."""
    found = []
    for place, atoms in enumerate([each for each in toy_structures if len(each) == 3][:4]):
        copy = atoms.copy()
        copy.calc = atoms.calc
        copy.set_constraint(FixAtoms([0]))
        copy.set_tags([3, 1, 2])
        copy.arrays["layer"] = np.array([0.5, 1.5, 2.5])
        copy.info |= {"place": place, "name": f"frame {place}", "REF_energy": 5.0}
        copy.arrays["REF_forces"] = np.ones((3, 3))
        found.append(copy)
    write_structures(tmp_path / "a.xyz", found)
    write_structures(tmp_path / "b.xyz", found[:1])
    return found


def carries(frame, place):
    """What the frame of that place does, and no label of it."""
    assert frame.info["place"] == place
    assert frame.info["name"] == f"frame {place}"
    assert frame.constraints[0].index.tolist() == [0]
    assert frame.get_tags().tolist() == [3, 1, 2]
    assert frame.arrays["layer"].tolist() == [0.5, 1.5, 2.5]


def test_relax_takes_several_structures(run, model_file, frames, tmp_path):
    code, out, err = run(
        "relax", model_file, "a.xyz@::2", "b.xyz", "a.xyz", "-o", "relaxed.xyz", "--force", "5", "--steps", "3"
    )
    assert code == 0, err
    relaxed = read(tmp_path / "relaxed.xyz", ":")
    for frame, place in zip(relaxed, (0, 2, 0, 3), strict=True):
        carries(frame, place)
        assert not {"REF_energy", "REF_forces"} & {*frame.info, *frame.arrays}
        assert np.isfinite(frame.get_potential_energy())
    assert len({frame.get_potential_energy() for frame in relaxed}) == 3
    assert len({line.split("energy")[1] for line in out.splitlines() if "energy" in line}) == 3
    for output, more, words in (
        ("one.vasp", (), "holds one structure"),
        ("two.xyz", ("--trajectory", "steps.xyz"), "--trajectory holds the steps of one structure; there are 2"),
    ):
        code, _, err = run("relax", model_file, "a.xyz@:2", "-o", output, *more)
        assert code == 2
        assert words in " ".join(err.split())


def test_of_several_relaxations_each_is_written(run, model_file, frames, tmp_path):
    code, _, err = run("relax", model_file, "a.xyz@:2", "-o", "last.xyz", "--steps", "2", "--force", "1e-9")
    assert code == 8
    told = " ".join(err.split())
    assert "2 of 2 structures were not relaxed; last.xyz holds 2 structures" in told
    assert "structure 1: not converged after 2 steps" in told
    for place, frame in enumerate(read(tmp_path / "last.xyz", ":")):
        carries(frame, place)


def test_md_starts_from_the_frame_that_is_chosen(run, model_file, frames, tmp_path):
    for chosen, place in (("a.xyz@1", 1), ("a.xyz", 3), ("a.xyz@:1", 0)):
        line = ("--steps", "1", "--temperature", "0", "--ensemble", "nve", "--overwrite")
        code, _, err = run("md", model_file, chosen, "-o", "run.xyz", *line)
        assert code == 0, err
        first = read(tmp_path / "run.xyz", 0)
        carries(first, place)
        np.testing.assert_allclose(first.positions, frames[place].positions, atol=1e-6)
    for given, words in (
        (["a.xyz@::2"], "a.xyz@::2 stands for 2 frames; choose one to start from, e.g. a.xyz@-1"),
        (["a.xyz", "b.xyz"], "md starts from one structure, 2 files are given"),
    ):
        code, _, err = run("md", model_file, *given, "-o", "other.xyz")
        assert code == 2
        assert words in " ".join(err.split())


@pytest.mark.parametrize("name", ["p.xyz", "p.db"])
def test_predict_takes_several_files_and_keeps_what_they_carry(run, model_file, frames, tmp_path, name):
    code, out, err = run("predict", model_file, "a.xyz@1:", "b.xyz", "-o", name)
    assert code == 0, err
    assert f"{name}: 4 structures" in out
    from mekrr_scale.structures import read_structures

    for frame, place in zip(read_structures(tmp_path / name), (1, 2, 3, 0), strict=True):
        carries(frame, place)
        assert frame.get_potential_energy() != pytest.approx(frames[place].get_potential_energy(), abs=1e-9)
        assert frame.info["REF_energy"] == 5.0  # of the same geometry


def test_evaluate_tells_the_errors_of_each_file(run, model_file, frames, tmp_path):
    assert run("evaluate", model_file, "a.xyz@1:", "b.xyz", "--json", "e.json")[0] == 0
    found = json.loads((tmp_path / "e.json").read_text())
    assert found["metrics"]["structures"] == 4
    assert [each["structures"] for each in found["sets"].values()] == [3, 1]
    assert run("evaluate", model_file, "a.xyz@:1", "--transfer", f"{model_file}:a.xyz@-1", "--json", "t.json")[0] == 0
    assert json.loads((tmp_path / "t.json").read_text())["transfer"]["targets"] == ["a.xyz@:1", "a.xyz@-1"]


def test_models_and_data_of_one_name_are_told_apart(run, model_file, frames, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        shutil.copyfile(tmp_path / "a.xyz", tmp_path / folder / "a.xyz")
        shutil.copyfile(model_file, tmp_path / folder / "m.mekrr")
    pairs = ("--transfer", "y/m.mekrr:y/a.xyz", "--transfer", "y/m.mekrr:b.xyz", "--json", "t.json")
    assert run("evaluate", "x/m.mekrr", "x/a.xyz", *pairs)[0] == 0
    found = json.loads((tmp_path / "t.json").read_text())["transfer"]
    assert found["sources"] == ["x/m.mekrr", "y/m.mekrr", "y/m.mekrr"]
    assert found["targets"] == ["x/a.xyz", "y/a.xyz", "b.xyz"]


def test_forces_that_are_not_compared_are_not_drawn(run, model_file, store, frames, tmp_path):
    for given in (["a.xyz", "--no-forces"], [store]):
        code, _, err = run("evaluate", model_file, *given, "--species-plot", "s.png", "--json", "e.json")
        assert code == 2
        assert "--species-plot draws errors of forces" in err
    assert not (tmp_path / "e.json").exists()


def test_a_model_without_its_backbone_leaves_its_row_empty(
    run, store, fitted, model_file, checkpoint, frames, tmp_path
):
    shutil.copyfile(checkpoint, tmp_path / "w.pt")
    spec = {**fitted.model.spec, "checkpoint": str(tmp_path / "w.pt")}
    replace(fitted.model, spec=spec, weights=None).save(tmp_path / "bare.mekrr")
    (tmp_path / "w.pt").unlink()
    code, _, err = run("evaluate", model_file, "a.xyz", "--transfer", "bare.mekrr:b.xyz", "--json", "t.json")
    assert code == 0, err
    assert "bare.mekrr on a.xyz" in err
    found = json.loads((tmp_path / "t.json").read_text())["transfer"]["energy_rmse"]
    assert [[value is None for value in row] for row in found] == [[False, False], [True, True]]


def test_a_store_is_evaluated_alone(run, model_file, store, frames, tmp_path):
    code, _, err = run("evaluate", model_file, "a.xyz", store)
    assert code == 2
    assert "is a store, which is evaluated alone" in " ".join(err.split())


def test_others_choose_frames_too(run, model_file, frames, checkpoint, tmp_path):
    assert run("select", model_file, "a.xyz@::2", "-o", "next.xyz", "-n", "1")[0] == 0
    assert read(tmp_path / "next.xyz").info["place"] in (0, 2)
    assert run("explain", model_file, "a.xyz@-1", "-o", "parts.xyz")[0] == 0
    carries(read(tmp_path / "parts.xyz"), 3)
    line = ("--backbone", "schnet", "--checkpoint", checkpoint)
    code, out, err = run("extract", "a.xyz@1:3", "-o", "some", *line)
    assert code == 0, err
    assert "2 structures written" in out
    code, _, err = run("extract", "a.xyz@9", "-o", "none", *line)
    assert code == 3
    assert "a.xyz@9 stands for no frame" in " ".join(err.split())
    shutil.copy(tmp_path / "a.xyz", tmp_path / "a@2.xyz")
    assert run("predict", model_file, "a@2.xyz", "-o", "p.xyz")[0] == 0
    assert len(ase.io.read(tmp_path / "p.xyz", ":")) == 4


def test_folders_of_deepmd_are_no_stores(run, model_file, frames, checkpoint, tmp_path):
    part = tmp_path / "water" / "set.000"
    part.mkdir(parents=True)
    (tmp_path / "water" / "type_map.raw").write_text("H\nO\n")
    (tmp_path / "water" / "type.raw").write_text("\n".join("0" if kind == "H" else "1" for kind in frames[0].symbols))
    (tmp_path / "water" / "nopbc").touch()
    for name, values in (
        ("coord", [atoms.positions for atoms in frames]),
        ("energy", [atoms.get_potential_energy() for atoms in frames]),
        ("force", [atoms.get_forces(apply_constraint=False) for atoms in frames]),
    ):
        np.save(part / f"{name}.npy", np.array(values).reshape(len(frames), -1))
    for data in ("water", "a.xyz"):
        code, _, err = run("evaluate", model_file, data, "--json", f"{data}.json")
        assert code == 0, err
    first, second = (json.loads((tmp_path / f"{data}.json").read_text())["metrics"] for data in ("water", "a.xyz"))
    assert first["structures"] == 4
    assert first["energy_mae"] == pytest.approx(second["energy_mae"], rel=1e-4)
    assert first["force_mae"] == pytest.approx(second["force_mae"], rel=1e-4)
    line = ("extract", "water", "-o", "features", "--backbone", "schnet", "--checkpoint", checkpoint)
    for told in ("4 structures written, 0 were there", "0 structures written, 4 were there"):
        code, out, err = run(*line)
        assert code == 0, err
        assert told in out


def test_check_names_the_frames(run, model_file, frames, tmp_path):
    code, _, err = run("check", model_file, "a.xyz@1", "b.xyz", "--test", "motion", "--json", "c.json")
    assert code in (0, 1), err
    named = {each["structure"] for each in json.loads((tmp_path / "c.json").read_text())["findings"]}
    assert named == {"a@1", "b"}
