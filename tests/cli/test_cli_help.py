"""Help, completion and the environment: quick, and without what computations need."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mekrr_scale.cli.app import PLACES, command
from mekrr_scale.version import __version__

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "numpy", "scipy", "ase", "h5py", "matplotlib", "torch_geometric", "chgnet", "sevenn", "mace")

WALK = f"""
import contextlib, io, os, sys
from mekrr_scale.cli import main

def call(*arguments, **environment):
    sys.argv, told = ["mekrr-scale", *arguments], io.StringIO()
    os.environ.update(environment)
    with contextlib.redirect_stdout(told):
        try:
            main()
        except SystemExit as end:
            assert not end.code, (arguments, end.code)
    loaded = [name for name in {HEAVY} if name in sys.modules]
    assert not loaded, (arguments, environment, loaded)
    return told.getvalue()
"""


def in_a_process(code, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", WALK + code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def groups():
    """Every command, with its subcommands."""
    return {name: list(getattr(command(name), "commands", {})) for name in PLACES}


def test_help_of_every_command_loads_nothing_heavy():
    calls = [[], *([name] for name in PLACES), *([name, inner] for name in PLACES for inner in groups()[name])]
    assert len(calls) > 22
    code = f"""
for arguments in {calls!r}:
    told = call(*arguments, "--help")
    assert "Usage" in told and (len(arguments) < 2 or "Exit codes" in told), arguments
    assert call("--version").strip() == {__version__!r}
print("done")
"""
    assert in_a_process(code) == "done\n"


def test_the_list_of_commands_says_what_they_say():
    for name, place in PLACES.items():
        made = command(name)
        assert made.help.split("\n\n")[0].replace("\n", " ") == place.help
        assert (made.name or name) == name
    assert {"extract", "fit", "env", "store", "slurm"} < set(PLACES)


def completions(*pairs):
    """What bash is offered for a line of words, the last of which is not finished."""
    code = f"""
for line in {[pair.split(" ") for pair in pairs]!r}:
    words = " ".join(["mekrr-scale", *line])
    print(call(
        _MEKRR_SCALE_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(line))
    ).split())
"""
    return [eval(line) for line in in_a_process(code).splitlines()]


def test_a_shell_completes_names():
    found = completions(
        "f", "store v", "fit --lan", "fit --solver fal", "fit --kernel m", "fit --standardize none,scale-",
        "fit --mixing l", "extract --backbone s", "finetune --backbone ch", "backbones --blocks m",
        "distill --student kernel:s", "md --ensemble ", "select --method g", "evaluate --device cu",
    )  # fmt: skip
    assert found == [
        ["fit", "finetune"],
        ["verify"],
        ["--landmarks", "--landmarks-from"],
        ["falkon", "falkon-library"],
        ["matern32", "matern52"],
        ["none,scale-per-species"],
        ["learn"],
        ["sevennet", "schnet"],
        ["chgnet"],
        ["mace", "metatomic"],
        ["kernel:sevennet", "kernel:schnet"],
        ["nve", "langevin", "npt"],
        ["greedy"],
        ["cuda", "cuda:0", "cuda:1"],
    ]


def test_files_are_left_to_the_shell():
    assert completions("fit fit.t", "evaluate model.", "extract a.xyz --checkpoint w", "fit --plot p") == [[]] * 4


@pytest.fixture
def program(tmp_path):
    """A place of the program's name, and an environment with it and an empty home."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "mekrr-scale").write_text(f'#!/bin/bash\nexec {sys.executable} -m mekrr_scale "$@"\n')
    (folder / "mekrr-scale").chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }


def test_installed_in_bash(program, tmp_path):
    """What is installed in a home's .bashrc completes a command, as bash would call it."""
    shown = subprocess.run(
        ["mekrr-scale", "--show-completion", "bash"], env=program, capture_output=True, text=True, check=True
    )
    assert "_MEKRR_SCALE_COMPLETE=complete_bash" in shown.stdout
    subprocess.run(["mekrr-scale", "--install-completion", "bash"], env=program, capture_output=True, check=True)
    assert "mekrr-scale.sh" in (tmp_path / ".bashrc").read_text()
    script = (
        "source ~/.bashrc; COMP_WORDS=(mekrr-scale store re); COMP_CWORD=2; "
        'complete -p mekrr-scale; _mekrr_scale_completion mekrr-scale; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], env=program, capture_output=True, text=True, check=True)
    declared, offered = done.stdout.splitlines()
    assert "-o default" in declared  # files, where the program offers nothing
    assert offered == "repack"


def test_environment(run, monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    code, out, err = run("env", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["mekrr-scale"]["version"] == __version__
    assert found["python"]["version"] == ".".join(map(str, sys.version_info[:3]))
    assert found["threads"]["OMP_NUM_THREADS"] == "3"
    assert found["job"] == {"SLURM_JOB_ID": "17"} | {
        name: os.environ[name] for name in found["job"] if name != "SLURM_JOB_ID"
    }
    assert found["cpus"]["usable"] >= 1
    for name in ("torch", "ase", "numpy", "scipy", "h5py", "torch-geometric", "typer"):
        assert found["packages"][name]
    assert found["torch"]["threads"] >= 1
    assert "gloo" in found["torch"]["distributed"]
    assert isinstance(found["torch"]["cuda_devices"], list)
    assert found["backbones"]["schnet"]["usable"]
    code, out, err = run("env")
    assert code == 0, err
    assert f"mekrr-scale: version {__version__}" in out
    assert "backbone schnet: usable" in out


def test_environment_says_why_a_backbone_cannot_be_used(run, monkeypatch, tmp_path):
    (tmp_path / "mace").mkdir()
    (tmp_path / "mace" / "__init__.py").write_text("raise RuntimeError('built for another torch')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mace", raising=False)
    code, out, err = run("env", "--json")
    assert code == 0, err
    state = json.loads(out)["backbones"]["mace"]
    assert not state["usable"]
    assert state["note"] == "mace cannot be imported: RuntimeError: built for another torch"
    _, out, _ = run("env", "--json", "--no-load")
    assert json.loads(out)["backbones"]["mace"]["usable"]
    assert json.loads(out)["torch"] == {}


FIT = (
    *("--landmarks", "20", "--validate", "3", "--length-scale", "2x", "--ridge", "1e-6"),
    *("--baseline", "composition", "--no-check"),
)


def test_quiet_and_verbose(monkeypatch, capsys, tmp_path, store):
    from mekrr_scale import cli

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["mekrr-scale", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code, capsys.readouterr()
        return capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    fit = ("fit", "--store", store, "-o", "m.mekrr", *FIT)
    logger = logging.getLogger("mekrr_scale")
    before = logger.level, list(logger.handlers)
    told = call("--quiet", *fit)
    assert told.err == ""
    assert len(told.out.splitlines()) == 1
    assert told.out.startswith("model m.mekrr: 20 landmarks; cross-validated energy MAE")
    usual = call(*fit)
    assert "Candidates, cross-validated" in usual.out
    assert usual.out.splitlines()[-1] == told.out.strip()
    loud = call("--verbose", *fit)
    assert loud.out.count("Candidates") == 1
    remarks = [line for line in loud.err.splitlines() if not line.startswith("{")]
    assert {line for line in usual.err.splitlines() if not line.startswith("{")} < set(remarks)
    assert any(line.startswith("uncertainty: ") for line in remarks)  # a stage
    assert (logger.level, logger.handlers) == before
    told = call("-q", "evaluate", "m.mekrr", store)
    assert len(told.out.splitlines()) == 1
    assert "energy MAE" in told.out
    assert told.err == ""


def test_quiet_or_verbose_not_both(run):
    code, _, err = run("--quiet", "--verbose", "backbones")
    assert code == 2
    assert "give one of them" in err


def test_old_keys_are_told_in_one_line(run, monkeypatch, capsys, tmp_path, store):
    (tmp_path / "old.toml").write_text(
        f'store = "{store}"\noutput = "m.mekrr"\nvalidate = 0\n[kernel]\nlength_scale = "2x"\n'
        '[baseline]\nkind = "composition"\n[solver]\nridge = 1e-6\nderivatives = false\n[landmarks]\ncount = 20\n'
    )
    for before in ((), ("--verbose",)):
        code, out, err = run(*before, "fit", "old.toml", "--dry-run")
        assert code == 0, err
        assert err.count("warning:") == 1
        assert "validate is now validation.folds; kernel.length_scale is now kernel.length_scales" in err
        assert ".py" not in err
        assert "DeprecationWarning" not in err
    assert run("--quiet", "fit", "old.toml", "--dry-run")[2] == ""


def test_outputs_are_refused_before_the_work(run, monkeypatch, store, model_file, toy_file):
    import mekrr_scale.pipeline

    def never(*_, **__):
        raise AssertionError("worked in vain")

    for name in ("fit", "resources", "evaluate", "predict"):
        monkeypatch.setattr(mekrr_scale.pipeline, name, never)
    monkeypatch.setattr("mekrr_scale.simulation.explained", never)
    for arguments in (
        ("fit", "--store", store, "--plot", "no/such/x.png"),
        ("fit", "--store", store, "--json", "no/such/x.json"),
        ("evaluate", model_file, toy_file, "--json", "no/such/x.json"),
        ("evaluate", model_file, toy_file, "--plot", "no/such/x.png"),
        ("evaluate", model_file, toy_file, "--species-plot", "no/such/x.png"),
        ("explain", model_file, toy_file, "-o", "x.xyz", "--plot", "no/such/x.png"),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert "the folder no/such does not exist" in err


def test_a_file_stays_as_it_was_where_the_input_is_missing(run, model_file, tmp_path):
    (tmp_path / "out.xyz").write_text("of last week")
    for name in ("predict", "explain"):
        assert run(name, model_file, "missing.xyz", "-o", "out.xyz", "--overwrite")[0] == 3
    assert (tmp_path / "out.xyz").read_text() == "of last week"


def test_fit_as_json(run, tmp_path, store):
    code, _, err = run("fit", "--store", store, "-o", "m.mekrr", *FIT, "--json", "fit.json", "--plot", "cv.png")
    assert code == 0, err
    found = json.loads((tmp_path / "fit.json").read_text())
    assert found["metrics"]["energy_mae"] > 0
    assert found["units"]["energy"] == "meV/atom"
    assert found["plan"]["landmarks"]["count"] == 20
    assert (tmp_path / "cv.png").stat().st_size > 5000
