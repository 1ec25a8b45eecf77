"""Every option of every command reaches the work: what is called for changes with each of them.

The work itself is replaced by functions that write down what they are asked. For each option a command is called as
always and once more with the option; both must ask for different things (or write different files).
"""

import contextlib
import dataclasses
import importlib
import io
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.backbones import code_is_trusted
from mekrr_scale.cli import main
from mekrr_scale.cli.app import PLACES, command
from mekrr_scale.distributed import ALONE
from mekrr_scale.figures import TextTable
from mekrr_scale.pipeline import ExtractReport
from tests.cli.calls import CALLS


def commands():
    """Every command by the words that call it."""
    for name in PLACES:
        made = command(name)
        inner = getattr(made, "commands", None)
        yield from ((f"{name} {sub}", each) for sub, each in inner.items()) if inner else [(name, made)]


COMMANDS = dict(commands())


def written(value):
    """A value as text, without what differs from call to call."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = {field.name: written(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
        return f"{type(value).__name__}({inner})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, dict):
        return str({key: written(item) for key, item in value.items()})
    return re.sub(r" at 0x[0-9a-f]+|generator object \S+|0\.\d+e?-?\d* s$", "", repr(value))


class Record:
    """Stands for the work, and writes down what it is asked."""

    def __init__(self):
        self.lines = []

    def __call__(self, name, result=None):
        def work(*args, **given):
            if not name.startswith("progress"):
                trusted = " with code" if code_is_trusted() else ""
                self.lines.append(f"{name}{written(args)}{written(given)}{trusted}")
            return result(*args, **given) if callable(result) else result

        return work


@pytest.fixture
def record(monkeypatch, tmp_path):
    """The rooms' faces with their work taken out."""
    monkeypatch.chdir(tmp_path)
    record = Record()
    atoms = Atoms("Si", [(0, 0, 0)])
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    example = SimpleNamespace(id="x")
    backbone = SimpleNamespace(to=record("to"), blocks=lambda: {"conv1": [], "conv2": []})
    store = SimpleNamespace(
        shards=[], n_structures=0, n_atoms=0, n_directions=0, id="id", n_excluded=0, incomplete={},
        remarks=(), species={}, manifest={"schema": "1"},
        header=SimpleNamespace(directions={}, backbone={}, compression={}, dim=1, dtype="float32"),
    )  # fmt: skip
    selection = SimpleNamespace(indices=[0], uncertainty=torch.ones(1), remaining=torch.ones(1))
    distilled = SimpleNamespace(to_dict=dict)
    verified = SimpleNamespace(damaged=[], strays=[], ok=True, checked=1)
    model = SimpleNamespace(posterior=None, spec={"name": "chgnet"})
    evaluation, page = SimpleNamespace(), SimpleNamespace(to_dict=dict, advice=[])
    grown = SimpleNamespace(tables=list, headline=str, failed=())
    checked = SimpleNamespace(tables=lambda: [TextTable("", (), ())], failed=[], headline=str, to_dict=dict)
    work = {
        "pipeline": {
            "extract": ExtractReport(), "resources": None, "fit": None, "evaluate": evaluation,
            "transfer_table": None, "predict": [],
        },
        "report": {
            "resource_table": "", "contribution_table": "", "contribution_plot": None, "block_table": "",
            "distill_table": "", "curve_table": "", "curve_plot": None, "check_plot": None,
            "md_plot": None, "relax_plot": None, "selection_plot": None,
            "results_beside": None, "with_tests": page, "save_html": None, "save_figures": None,
        },
        "structures": {
            "read_structures": lambda *_, **__: [atoms], "count_structures": 1, "write_structure": None,
            "write_structures": 1,
        },
        "models": {
            "Model": SimpleNamespace(load=record("load", model)), "Potential": lambda *_, **__: None,
            "MekrrCalculator": None, "load_prior": None, "summary": {"cross-validated": "no"},
        },
        "simulation": {
            "run_md": SimpleNamespace(steps=1, resumed=0, drift=0.0), "relax": atoms, "select": selection,
            "explained": [], "totals": {},
        },
        "checks": {"check": checked, "read_references": None, "read_thresholds": None},
        "backbones": {"new_backbone": backbone, "load_backbone": backbone},
        "store": {"FeatureStore": store, "verify": verified, "finalize": store, "merge": store, "repack": store},
        "transfer": {
            "read_examples": [example], "split": ([example], [example]), "pretrain": None, "finetune": None,
            "distill": distilled, "expanded": lambda variants, _: tuple(variants), "run_curve": [],
        },
        "distributed": {"join": ALONE}, "tuning": {"tune": None},
        "engines.lammps": {
            "run_input": 0, "build": "plugin", "built": "plugin",
            "MliapModel": SimpleNamespace(save=record("save"), commands=str),
        },
        "engines.metatomic": {"export": None},
        "labelling": {"label": grown}, "workflows": {"learn": grown}, "cli.label": {"check_outputs": None},
        **{f"cli.{name}": {"deliver": None, "check_outputs": None} for name in ("evaluate", "train")},
        "cli.fit": {"deliver": None, "check_outputs": None, "present": None, "checked": None},
        "cli.transfer": {"save_student": None, "check_outputs": None}, "cli.simulate": {"check_outputs": None},
        **{f"cli.{name}": {"write_frames": 1, "check_outputs": None} for name in ("predict", "explain")},
        "cli.env": {"environment": {}},
        **{f"cli.{name}": {"check_outputs": None} for name in ("slurm", "select", "check", "report")},
    }  # fmt: skip
    for room in work:  # what looks at types while it is loaded must not meet a stand-in
        face = importlib.import_module(f"mekrr_scale.{room}")
        for name in getattr(face, "__all__", ()):
            getattr(face, name)
    for room, names in work.items():
        for name, result in names.items():
            stand_in = result if isinstance(result, SimpleNamespace) and name == "Model" else record(name, result)
            monkeypatch.setattr(f"mekrr_scale.{room}.{name}", stand_in)
    checkpoint = SimpleNamespace(begin=lambda: None, clear=lambda: None)
    monkeypatch.setattr("mekrr_scale.distributed.Checkpoint", record("Checkpoint", checkpoint))
    monkeypatch.setattr("mekrr_scale.models.PriorSpec.pinned", lambda self: self)
    monkeypatch.setattr("ase.io.write", record("write"))
    return record


def called(record, name, *arguments):
    """What a command line asks for, prints and writes, in a folder of its own."""
    for path in Path().iterdir():
        path.unlink()
    for path in ("a.xyz", "b.xyz", "c.xyz", "m.mekrr", "w.mekrr", "fit.toml"):
        Path(path).write_text("")
    Path("fit.toml").write_text('store = ["s"]\noutput = "m.mekrr"\n')
    Path("loop.toml").write_text('frames = "a.xyz"\ncalculator = "emt"\n')
    record.lines.clear()
    told = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(told):
        patch.setattr(sys, "argv", ["mekrr-scale", *name.split(), *arguments])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code, (name, arguments)
    files = {str(path): path.read_text() for path in sorted(Path().iterdir())}
    return "\n".join(record.lines), told.getvalue(), files


def test_the_table_has_every_option():
    assert set(CALLS) == set(COMMANDS)
    for name, made in COMMANDS.items():
        options = [p for p in made.params if p.param_type_name == "option" and "--help" not in p.opts]
        flags = [{*p.opts, *p.secondary_opts} for p in options]
        absent = [sorted(each) for each in flags if not each & set(CALLS[name][1])]
        assert not absent, f"{name}: give a value for {absent}"
        assert set(CALLS[name][1]) <= set().union(*flags), name


# options whose field in a plan, or keyword of a function, has another name
FIELDS = {
    "energy_key": "energy", "forces_key": "forces", "stress_key": "stress", "units": "energy_unit",
    "weights": "version", "lr": "learning_rate", "lr_decay": "decay", "lr_map": "rates", "shard_size": "shard_bytes",
    "validate": "folds", "max_force": "force", "max_uncertainty": "uncertainty", "max_grade": "grade",
    "train_blocks": "train", "sample_frames": "frames", "sample_every": "every", "quick": "full",
    "unlabelled": "need_energy", "ridge": "ridges", "landmarks": "count", "state_interval": "interval",
    "species_map": "species",
}  # fmt: skip
# where a field of that name is another thing; None: the option is a plain argument there
OTHER = {
    "fit": {"store": None, "checkpoint": None, "solver__name": None}, "evaluate": {"transfer": None, "forces": None},
    "md": {"overwrite": None}, "report": {"overwrite": None}, "relax": {"force": None},
    "pretrain": {"backbone": "name"}, "finetune": {"backbone": "name"},
    "distill": {"unlabelled": None, "derivatives": None}, "curve": {"lr": "rates", "backbone": "name"},
}  # fmt: skip

LEAST = {"extract": 26, "fit": 30, "tune": 14, "md": 16, "pretrain": 25, "finetune": 32, "distill": 19, "curve": 17}


def held_in(lines, field):
    """The values of a field, wherever in plans and keywords it stands."""
    return re.findall(rf"""\b{field}\\*': *[\\"']*(\[[^\]]*\]|{{[^}}]*}}|[^,}}]*)""", lines)


@pytest.mark.parametrize("name", list(CALLS))
def test_every_option_reaches_the_work(record, name):
    """And the field of its own name, where a plan has one: two weights that change places would be seen."""
    usual, options = CALLS[name]
    before = called(record, name, *shlex.split(usual))
    assert before == called(record, name, *shlex.split(usual))
    fields = {flag: param.name for param in COMMANDS[name].params for flag in (*param.opts, *param.secondary_opts)}
    without, astray, named = [], [], 0
    for option, value in options.items():
        first, *others = [value] if name.startswith("slurm") else value.split() or [""]
        given = [option, *([first] if first else []), *others]
        after = called(record, name, *shlex.split(usual), *given)
        if after == before:
            without.append(option)
        word = fields[option].rpartition("__")[2]  # of a plan's path
        field = OTHER.get(name, {}).get(fields[option], FIELDS.get(word, word))
        there = [held_in(lines, field) if field else [] for lines, *_ in (before, after)]
        if any(there):
            named += 1
            if there[0] == there[1]:
                astray.append(option)
    assert not without, f"{name}: {without} change nothing"
    assert not astray, f"{name}: {astray} do not change the field of their name"
    assert named >= LEAST.get(name, 0)
