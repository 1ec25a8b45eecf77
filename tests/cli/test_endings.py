"""However a command ends, it is a line and an exit code."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mekrr_scale.cli import console
from mekrr_scale.cli.options import EXIT_CODES
from mekrr_scale.errors import MekrrError

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def broken(monkeypatch, error):
    def work(*_, **__):
        raise error

    monkeypatch.setattr("mekrr_scale.store.FeatureStore", work)


def test_what_nobody_expected_is_reported(call, monkeypatch, tmp_path):
    """A line, exit code 70, and a file with what a bug report needs."""
    broken(monkeypatch, KeyError("who knows"))
    code, _, err = call("store", "info", "a [b] store")
    assert code == 70
    assert err.count("\n") == 1
    assert "KeyError" in err
    (report,) = tmp_path.glob("mekrr-scale-error-*.txt")
    assert str(report) in err
    text = report.read_text()
    assert "store info 'a [b] store'" in text
    assert "Traceback (most recent call last)" in text
    assert "torch" in text
    assert "python: version" in text


def test_reports_go_where_there_is_room(call, monkeypatch, tmp_path):
    (tmp_path / "other").mkdir()
    monkeypatch.setattr("mekrr_scale.cli.ending.Path.cwd", lambda: tmp_path / "gone")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "other"))
    broken(monkeypatch, ZeroDivisionError())
    assert call("store", "info", "x")[0] == 70
    assert list((tmp_path / "other").glob("mekrr-scale-error-*"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "gone"))
    code, _, err = call("store", "info", "x")
    assert code == 70
    assert "no report could be written" in err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (MemoryError(), 1, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "not enough memory"),
        (PermissionError(13, "Permission denied", "x"), 1, "Permission denied"),
        (MekrrError("one\n  two\x1b[31m [bold]three[/bold]"), 1, "error: one two\\x1b[31m [bold]three[/bold]"),
        (RuntimeError("first\nsecond"), 70, "RuntimeError: first; a report"),
    ],
)
def test_one_line_each(call, monkeypatch, error, code, text):
    broken(monkeypatch, error)
    found, _, err = call("store", "info", "x")
    assert found == code
    assert text in err
    assert err.count("\n") == 1


def test_every_error_has_its_own_code_and_the_page_names_it(run, monkeypatch):
    page = (ROOT / "docs" / "cli.md").read_text()
    kinds = MekrrError.__subclasses__()
    codes = [kind.exit_code for kind in kinds]
    assert sorted(codes) == sorted({*codes}) == [2, 3, 4, 5, 6, 7, 8, 9, 75]
    for kind in kinds:
        broken(monkeypatch, kind("told"))
        assert run("store", "info", "x")[0] == kind.exit_code
        assert re.search(rf"^\| {kind.exit_code} \|", page, re.MULTILINE), kind
        assert re.search(rf"\b{kind.exit_code} ", EXIT_CODES), kind


def test_brackets_in_names_are_shown(call, tmp_path):
    code, _, err = call("evaluate", "m.mekrr", "x")
    assert code == 6
    (tmp_path / "[red]name[-].toml").write_text("store = 5")
    _, _, err = call("fit", "[red]name[-].toml")
    assert "[red]name[-].toml" in err
    assert "write a path in quotes" in err


def test_tables_take_no_markup(capsys, monkeypatch):
    from rich.table import Table

    table = Table(title="[red]store[/]")
    table.add_row("[bold]x[/bold]")
    monkeypatch.setattr(console.out, "quiet", False)
    console.out.print(table)
    shown = capsys.readouterr().out
    assert "[red]store[/]" in shown
    assert "[bold]x[/bold]" in shown


@pytest.mark.parametrize("device", ["meta", "mps", "nope", "cpu:x", "cuda:", "xpu", "cuda:-1", ""])
def test_devices_that_are_none(call, device):
    code, _, err = call("evaluate", "m.mekrr", "x", "--device", device)
    assert code == 2
    assert "write cpu, cuda" in err


@pytest.mark.parametrize(
    "words",
    [
        "md m s -o r.xyz --timestep nan", "md m s -o r.xyz --seed -1", "md m s -o r.xyz --pressure inf",
        "md m s -o r.xyz --max-force nan", "relax m s -o r.xyz --force nan", "relax m s -o r.xyz --steps -1",
        "select m s -o r.xyz -n -3", "select m s -o r.xyz --seed -1", "explain m s -o r.xyz --nearest -1",
        "extract s -o f --seed -1", "extract s -o f --prior-length-scale nan", "extract s -o f --timeout nan",
        "pretrain s -o b.pt --lr nan", "pretrain s -o b.pt --valid-fraction nan", "pretrain s -o b.pt --seed -1",
        "finetune s -o b.pt --energy-weight nan", "finetune s -o b.pt --length-scale inf",
        "distill --teacher m --unlabelled s -o b.pt --rattle nan", "curve s -o c --test s --repeats -1",
        "fit --store f --validate -1", "fit --store f --seed -1", "fit --store f --store-weight nan",
        "fit --store f --ridge nan", "fit --store f --alpha nan", "fit --store f --force-weight 1,inf",
        "fit --store f --checkpoint-interval nan", "fit --store f --memory inf", "slurm extract s -o f --parts -1",
    ],
)  # fmt: skip
def test_numbers_that_are_none(call, tmp_path, words):
    """Whatever the command: told before anything is read."""
    (tmp_path / "s").write_text("")
    code, _, err = call(*words.split())
    assert code == 2, err
    assert "nan" in err or "inf" in err or "-1" in err or "-3" in err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("slurm extract s -o f --time soon", "write hours:minutes:seconds"),
        ("slurm extract s -o f --mem lots", "write 32G or 64000M"),
        ("slurm extract s -o f --notice 3", "the notice is at least 30 seconds"),
        ("slurm extract s -o f --options 'a", "--options"),
        ("finetune s -o b.pt --lr-map readout=nan", "write name=number"),
        ("curve s -o c --test s --lr 1e-3,inf", "write numbers separated by commas"),
    ],
)
def test_texts_that_are_none(call, tmp_path, words, text):
    (tmp_path / "s").write_text("")
    code, _, err = call(*words.split(" "))
    assert code == 2, err
    assert text in err


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": None}, "but not MASTER_PORT; start with torchrun"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x'"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 of WORLD_SIZE 2"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "?"}, "LOCAL_RANK is"),
        ({"SLURM_STEP_NUM_TASKS": "two", "SLURM_PROCID": "0"}, "SLURM_STEP_NUM_TASKS is"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "x", "SLURM_STEP_NODELIST": "n1"}, "SLURM_PROCID is"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_STEP_ID": "x"}, "SLURM_STEP_ID is"),
    ],
)
def test_launchers_that_say_nonsense(call, monkeypatch, environment, text):
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", **environment}.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    code, _, err = call("fit", "--store", "f", "-o", "m.mekrr")
    assert code == 2
    assert text in err


SLOW = (
    "import signal, sys, time\n"
    "from mekrr_scale import cli, store\n"
    "class Slow:\n"
    "    def __init__(self, *_, **__):\n"
    "        try:\n"
    "            print('begun', flush=True)\n"
    "            time.sleep(600)\n"
    "        finally:\n"
    "            print('ending', flush=True)\n"
    "            time.sleep({pause})\n"
    "store.FeatureStore = Slow\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where the tests run in the background
    "sys.argv = ['mekrr-scale', 'store', 'info', 'x']\n"
    "cli.main()\n"
)


@pytest.mark.parametrize("times", [1, 2])
def test_interrupted(tmp_path, times):
    """Once: in order; twice: at once. Never a traceback."""
    script = tmp_path / "slow.py"
    script.write_text(SLOW.replace("{pause}", "0" if times == 1 else "600"))
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, script], env=ENVIRONMENT, **piped) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "ending\n"
        if times == 2:
            process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert ("interrupted; what was finished is kept" in err) == (times == 1)


def test_a_reader_that_goes(tmp_path):
    """`mekrr-scale ... | head -0`: no traceback, nor one from the interpreter's end."""
    command = f"{sys.executable} -m mekrr_scale backbones | true"
    found = subprocess.run(command, shell=True, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert not re.search(r"Traceback|Exception ignored|BrokenPipe", found.stderr)


def test_help_is_still_fast_to_load():
    """What every command needs at its end brings neither torch nor ase."""
    script = "import sys, mekrr_scale.cli.app; sys.exit('torch' in sys.modules or 'ase' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, check=False).returncode == 0
