"""Outputs: refused before work, never over an input or a stranger's file, whole or not at all."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms

from mekrr_scale import files
from mekrr_scale.cli import main
from mekrr_scale.errors import ConfigError, MekrrError, ModelError
from mekrr_scale.files import Lock, locked, replacing, sweep
from mekrr_scale.models import Model
from mekrr_scale.outputs import (
    BACKBONE,
    FIGURE,
    FRAMES,
    MODEL,
    REPORT,
    SCRIPT,
    STREAM,
    check_folder,
    check_output,
    check_outputs,
    figure_of,
    write_report,
)
from mekrr_scale.report import parity_plot
from mekrr_scale.structures import count_structures, read_structures, write_structure, write_structures

OTHERS = {
    "test.xyz": "2\n\nH 0 0 0\nH 0 0 1\n", "notes.json": '{"a": 1}', "list.json": "[1, 2]", "job.sh": "#!/bin/bash\n",
    "photo.png": "\x89PNG of somebody", "weights.pt": "PK", "model.mekrr": "not a model", "own": "text",
    "broken.json": "{", "binary.json": "\x00\xff",
}  # fmt: skip
KINDS = {
    MODEL: "model.mekrr", BACKBONE: "weights.pt", REPORT: "notes.json", FIGURE: "photo.png", SCRIPT: "job.sh",
    FRAMES: "test.xyz",
}  # fmt: skip


@pytest.fixture
def others(tmp_path):
    """Files of a user's own."""
    for name, text in OTHERS.items():
        (tmp_path / name).write_text(text, encoding="latin-1")
    return tmp_path


@pytest.mark.parametrize("kind", list(KINDS), ids=lambda kind: kind.what)
def test_a_strangers_file_is_replaced_only_when_asked(others, kind):
    """Whatever its name: of this kind's suffix or of none."""
    for name in (KINDS[kind], "own"):
        if name == "own" and not kind.bare:
            continue
        with pytest.raises(ConfigError, match=f"{name} is there already.*--overwrite"):
            check_output(others / name, kind)
        check_output(others / name, kind, overwrite=True)
        assert (others / name).read_text(encoding="latin-1") == OTHERS[name]
    assert sorted(path.name for path in others.iterdir()) == sorted(OTHERS)  # looking left nothing


def test_reports_know_reports(others):
    for name in ("list.json", "broken.json", "binary.json"):
        with pytest.raises(ConfigError, match="is there already"):
            check_output(others / name, REPORT)
    for figures in (
        {"schema": "mekrr-scale evaluate 1.0"}, {"metrics": {}, "rejected": [], "units": {}},
        {"chosen": {}, "candidates": [], "plan": {}}, {"teacher": "a", "student": "b"},
        {"training_structures": 1, "best_step": 1, "history": []},
    ):  # fmt: skip
        write_report(others / "r.json", figures)
        check_output(others / "r.json", REPORT)
    (others / "empty.json").write_text("")
    check_output(others / "empty.json", REPORT)  # nothing to lose


def test_names_tell_kinds(tmp_path):
    """A suffix that stands for something else is refused, by what it stands for."""
    bad = {
        MODEL: ["m.xyz", "m.json", "m.pt", "m.png", "m.gz", "m.db", "m.toml"],
        BACKBONE: ["b.mekrr", "b.json", "b.xyz", "b.h5"],
        REPORT: ["r.xyz", "r.mekrr", "r.json.gz", "r.toml", "r.png"],
        FIGURE: ["f.json", "f.xyz", "f.txt", "f.xyz.png.gz", "f.mekrr"],
        FRAMES: ["p.json", "p.cif", "p.foo", "p.traj.gz", "p.db.xz", "p.zip", "p.png"],
        STREAM: ["t.xyz.gz", "t.traj", "t.db", "t.extxyz.xz"],
        SCRIPT: ["s.xyz", "s.json", "s.mekrr"],
    }
    good = {
        MODEL: ["m.mekrr", "m", "m.v2", "fit-1e-6.5"], BACKBONE: ["b.pt", "b"], REPORT: ["r.json", "r", "r.txt"],
        FIGURE: ["f.png", "f.PDF", "f.svg"], SCRIPT: ["s.sbatch", "s.sh"], STREAM: ["t.xyz", "t.extxyz", "t"],
        FRAMES: ["p.xyz", "p.extxyz", "p.xyz.gz", "p.xyz.xz", "p.xyz.bz2", "p.traj", "p.db", "p", "P.XYZ"],
    }  # fmt: skip
    for kind, names in bad.items():
        for name in names:
            with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
                check_output(tmp_path / name, kind)
    for kind, names in good.items():
        for name in names:
            check_output(tmp_path / name, kind)
    assert [figure_of(Path(name)) for name in ("a/b", "b.pdf")] == [Path("a/b.png"), Path("b.pdf")]
    assert figure_of(None) is None
    assert not list(tmp_path.iterdir())


def test_an_input_is_no_output_however_it_is_spelt(others, monkeypatch):
    monkeypatch.chdir(others)
    (others / "sub").mkdir()
    (others / "soft.xyz").symlink_to("test.xyz")
    os.link("test.xyz", "hard.xyz")
    for name in ("test.xyz", "./test.xyz", "sub/../test.xyz", str(others / "test.xyz"), "soft.xyz", "hard.xyz"):
        with pytest.raises(ConfigError, match="is an input, too"):
            check_outputs([(name, FRAMES, "-o")], ["m.mekrr", "test.xyz"], overwrite=True)
    with pytest.raises(ConfigError, match="is an input, too"):  # neither is there yet
        check_outputs([("x.xyz", FRAMES, "-o")], [others / "x.xyz"])
    with pytest.raises(ConfigError, match="also where a report goes"):
        check_outputs([("x", REPORT, "--json"), ("sub/../x", MODEL, "-o")])


def test_places_are_tried(tmp_path):
    with pytest.raises(ConfigError, match="does not exist; create it first"):
        check_output(tmp_path / "no" / "m.mekrr", MODEL)
    with pytest.raises(ConfigError, match="is a folder; name a file"):
        check_output(tmp_path, MODEL)
    with pytest.raises(ConfigError, match="cannot be written"):
        check_output(tmp_path / ("m" * 300), MODEL)
    with pytest.raises(ConfigError, match="cannot be written"):
        check_output("/sys/m.mekrr", MODEL)
    (tmp_path / "gone.mekrr").symlink_to(tmp_path / "no" / "m.mekrr")
    with pytest.raises(ConfigError, match="does not exist"):
        check_output(tmp_path / "gone.mekrr", MODEL)
    protected = tmp_path / "protected.json"
    write_report(protected, {"schema": "mekrr-scale fit 1.0"})
    protected.chmod(0o444)
    with pytest.raises(ConfigError, match="protected from writing"):
        check_output(protected, REPORT)
    check_folder(None)
    check_folder(tmp_path / "a" / "b")
    for path, words in ((protected, "is a file"), (protected / "a", "is a file"), ("/sys/a", "cannot be written")):
        with pytest.raises(ConfigError, match=words):
            check_folder(path, "--state")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gone.mekrr", "protected.json"]


def test_a_stores_files_are_never_replaced(store):
    with pytest.raises(ConfigError, match="belongs to a store"):
        check_output(store / "manifest.json", REPORT, overwrite=True)


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_permissions_follow_the_umask(mask, fitted, tmp_path):
    before = os.umask(mask)
    try:
        fitted.model.save(tmp_path / "m.mekrr")
        write_report(tmp_path / "r.json", {})
        write_structures(tmp_path / "p.db", [Atoms("H")])
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask, path
    (tmp_path / "m.mekrr").chmod(0o640)
    fitted.model.save(tmp_path / "m.mekrr")
    assert stat.S_IMODE((tmp_path / "m.mekrr").stat().st_mode) == 0o640  # as its owner wants it


def test_models_are_saved_over_models_alone(fitted, others):
    with pytest.raises(ModelError, match="is there already"):
        fitted.model.save(others / "model.mekrr")
    with pytest.raises(ModelError, match="under the name of structures"):
        fitted.model.save(others / "new.xyz")
    fitted.model.save(others / "model.mekrr", overwrite=True)
    fitted.model.save(others / "model.mekrr")
    (others / "link.mekrr").symlink_to("model.mekrr")
    fitted.model.save(others / "link.mekrr")
    assert (others / "link.mekrr").is_symlink()
    assert Model.load(others / "model.mekrr").coefficients.equal(fitted.model.coefficients)


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg", "svgz", "eps", "ps", "jpg", "jpeg", "tif", "tiff", "webp", ""])
def test_figures_know_figures(suffix, tmp_path):
    folds = np.zeros(3), np.ones(3)
    path = tmp_path / f"plot.{suffix}".rstrip(".")
    for _ in range(2):  # the second one replaces the first
        parity_plot(path, folds=folds)
    written = list(tmp_path.iterdir())
    assert written == [figure_of(path)]
    assert written[0].stat().st_size > 500
    written[0].write_bytes(b"a photograph")
    with pytest.raises(ConfigError, match="is there already"):
        parity_plot(path, folds=folds)
    assert written[0].read_bytes() == b"a photograph"


def test_nothing_is_left_of_what_fails(tmp_path):
    path = tmp_path / "p.xyz"
    path.write_text("before")

    def frames():
        yield Atoms("H")
        raise MekrrError("the second cannot be read")

    for name in ("p.xyz", "q.xyz.gz", "q.traj", "q.db"):
        with pytest.raises(MekrrError):
            write_structures(tmp_path / name, frames())
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert [p.name for p in tmp_path.iterdir()] == ["p.xyz"]
    assert path.read_text() == "before"


@pytest.mark.parametrize(
    "name",
    [
        "a.xyz",
        "a.extxyz",
        "a.xyz.gz",
        "a.xyz.xz",
        "a.xyz.bz2",
        "a.traj",
        "a.db",
        "a",
        "A.XYZ",
        "A.XYZ.GZ",
        "A.DB",
        "A.TRAJ",
    ],
)
def test_structures_come_back_in_every_format(name, toy_structures, tmp_path):
    frames = toy_structures[:3]
    assert write_structures(tmp_path / name, frames) == 3
    assert count_structures(tmp_path / name) == (3 if "." in name else None)
    again = list(read_structures(tmp_path / name, None if "." in name else "extxyz"))
    for a, b in zip(frames, again, strict=True):
        np.testing.assert_allclose(b.positions, a.positions, atol=1e-7)
        assert b.get_potential_energy() == pytest.approx(a.get_potential_energy(), abs=1e-7)
        assert b.info["trajectory"] == a.info["trajectory"]


@pytest.mark.parametrize("name", ["a.xyz", "a.xyz.gz", "a.xyz.xz", "a.xyz.bz2", "a.traj"])
def test_the_same_structures_are_the_same_bytes(name, toy_structures, tmp_path, monkeypatch):
    """Whenever they are written, and wherever."""
    found = []
    for moment in (1.0e9, 1.5e9):
        monkeypatch.setattr(time, "time", lambda moment=moment: moment)
        write_structures(tmp_path / f"{moment:g}{name}", toy_structures[:3])
        found.append((tmp_path / f"{moment:g}{name}").read_bytes())
    assert found[0] == found[1]


def test_a_structure_in_any_format_of_ase(tmp_path):
    atoms = Atoms("H", cell=[4, 4, 4], pbc=True)
    for name in ("a.cif", "POSCAR", "a.vasp", "a.xyz.gz", "a.traj"):
        write_structure(tmp_path / name, atoms)
        assert ase.io.read(tmp_path / name).get_volume() == pytest.approx(64)


def test_devices_take_bytes():
    write_structures("/dev/null", [Atoms("H")])
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    found = subprocess.run(
        [sys.executable, "-c", "from mekrr_scale.files import publish_text as p; from pathlib import Path as P;"
         "p(P('/dev/stdout'), 'told')"], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout == "told"


def test_what_dead_processes_left_is_swept(tmp_path, monkeypatch):
    """By age and owner: not what a living process, another user or another machine may still write."""
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    number, unique = int(dead.stdout), "0" * 32

    def left(name, hours):
        path = tmp_path / name
        path.mkdir() if "folder" in name else path.write_text("")
        os.utime(path, (time.time() - 3600 * hours,) * 2)
        return path

    mine, there = files.temporary_path(tmp_path, "").name.split("-")[1], "ffffffff"
    gone = [
        left(f".tmp-{mine}-{number}-{unique}.xyz", 1), left(f".tmp-{there}-1-{unique}", 25),
        left(f".tmp-{mine}-{number}-{unique}-folder", 1), left(f".m.mekrr.{unique}", 25),
        left(f".b.pt.{unique}", 25), left(f".run.restart.json.{unique}", 25),
    ]  # fmt: skip
    kept = [
        left(f".tmp-{mine}-{os.getpid()}-{unique}.xyz", 1000), left(f".tmp-{mine}-{number}-{unique[:-1]}1", 0.1),
        left(f".tmp-{there}-1-{unique[:-1]}1", 2), left(f".m.mekrr.{unique[:-1]}1", 2), left(".tmp-notes", 1000),
        left("a.xyz", 1000), left(f".cache.{unique}", 1000), left(f".folder.{unique}", 1000),
        left(f".folder.mekrr.{unique}", 1000),
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "getuid", lambda: 123456)
        sweep(tmp_path)
        assert all(path.exists() for path in gone)
    write_report(tmp_path / "r.json", {})  # every writer sweeps
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)


def test_a_lock_ends_with_its_process(tmp_path):
    path = tmp_path / "run.xyz"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"from mekrr_scale.files import Lock; from pathlib import Path; import time;"
         f"lock = Lock(Path({str(path)!r}), 'it', keep=True); print(1, flush=True); time.sleep(600)"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout.readline()
    with pytest.raises(ConfigError, match="is being written by another run"), locked(path):
        pass
    holder.kill()
    holder.communicate()
    with locked(path):
        path.write_text("frames")
        with pytest.raises(ConfigError, match="another run"):  # of this process, too
            Lock(path, "it", keep=True)
    assert path.read_text() == "frames"
    other = Lock(tmp_path / "state.lock", "it")
    other.release()
    assert not (tmp_path / "state.lock").exists()
    with locked(tmp_path / "empty.xyz"):
        pass
    assert not (tmp_path / "empty.xyz").exists()


def _command(monkeypatch, capfd, *arguments):
    monkeypatch.setattr(sys, "argv", ["mekrr-scale", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, capfd.readouterr().err.replace("\n", " ")


COMMANDS = {
    "predict": ("predict m.mekrr a.xyz -o {}", ("a.xyz", "m.mekrr", "b.xyz", "p.json", "no/p.xyz")),
    "explain": ("explain m.mekrr a.xyz -o {}", ("a.xyz", "m.mekrr", "b.xyz", "p.cif")),
    "explain --plot": ("explain m.mekrr a.xyz -o new.xyz --plot {}", ("a.xyz", "photo.png", "p.mekrr", "new.xyz")),
    "select": ("select m.mekrr a.xyz -n 1 -o {}", ("a.xyz", "b.xyz", "m.mekrr", "p.pdf")),
    "md": ("md m.mekrr a.xyz -o {}", ("a.xyz", "b.xyz", "m.mekrr", "run.xyz.gz", "run.traj", "no/run.xyz")),
    "relax": ("relax m.mekrr a.xyz -o {}", ("a.xyz", "b.xyz", "m.mekrr", "own", "r.foo")),
    "relax --trajectory": ("relax m.mekrr a.xyz -o new.xyz --trajectory {}", ("a.xyz", "b.xyz", "t.traj", "new.xyz")),
    "evaluate --json": ("evaluate m.mekrr a.xyz --json {}", ("a.xyz", "b.xyz", "m.mekrr", "notes.json", "no/e.json")),
    "evaluate --plot": ("evaluate m.mekrr a.xyz --plot {}", ("a.xyz", "photo.png", "m.mekrr", "p.doc")),
    "evaluate --species-plot": ("evaluate m.mekrr a.xyz --species-plot {}", ("a.xyz", "photo.png")),
    "finetune": ("finetune a.xyz -o {}", ("a.xyz", "b.xyz", "m.mekrr", "notes.json", "weights.pt", "no/w.pt")),
    "finetune --state": ("finetune a.xyz -o new.pt --state {}", ("a.xyz", "notes.json")),
    "pretrain --json": ("pretrain a.xyz -o new.pt --json {}", ("a.xyz", "notes.json", "new.pt")),
    "distill": ("distill --teacher m.mekrr --unlabelled a.xyz -o {}", ("a.xyz", "m.mekrr", "weights.pt", "own")),
    "curve": ("curve a.xyz --test b.xyz -o {}", ("a.xyz", "notes.json")),
    "fit": ("fit --store s -o {}", ("s/manifest.json", "b.xyz", "notes.json", "own", "no/m.mekrr")),
    "fit --json": ("fit --store s -o new.mekrr --json {}", ("s/manifest.json", "notes.json", "new.mekrr")),
    "fit --checkpoint": ("fit --store s -o new.mekrr --checkpoint {}", ("b.xyz",)),
    "slurm extract": ("slurm extract a.xyz -o t --script {}", ("a.xyz", "b.xyz", "job.sh", "no/x")),
    "slurm fit": ("slurm fit fit.toml --script {}", ("fit.toml", "b.xyz", "job.sh", "notes.json")),
}  # fmt: skip


@pytest.mark.parametrize("name", list(COMMANDS))
def test_no_command_destroys_a_file(name, model_file, store, tmp_path, monkeypatch, capfd):
    """In place, over a stranger's file, under another kind's name, into a folder that is not there: refused at once."""
    monkeypatch.chdir(tmp_path)
    for file, text in OTHERS.items():
        Path(file).write_text(text, encoding="latin-1")
    for file in ("a.xyz", "b.xyz"):
        Path(file).write_text(OTHERS["test.xyz"])
    Path("m.mekrr").write_bytes(Path(model_file).read_bytes())
    Path("fit.toml").write_text("")
    Path("s").symlink_to(store)

    def contents():
        return {p: p.read_bytes() for p in (*Path().iterdir(), Path("s/manifest.json")) if p.is_file()}

    before = contents()
    line, targets = COMMANDS[name]
    for target in targets:
        code, told = _command(monkeypatch, capfd, *line.format(target).split())
        assert code == 2, (target, told)
        assert told.startswith("error: "), (target, told)
        assert contents() == before, (target, told)
