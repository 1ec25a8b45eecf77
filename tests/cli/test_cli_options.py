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

from mekrr_scale.arrays import KINDS
from mekrr_scale.backbones import code_is_trusted
from mekrr_scale.cli import main
from mekrr_scale.cli.app import PLACES, command
from mekrr_scale.distributed import ALONE
from mekrr_scale.figures import TextTable
from mekrr_scale.pipeline import ExtractReport

TRAIN = {
    "--weights": "r2scan", "--checkpoint": "w.pt", "--valid": "b.xyz", "--valid-fraction": "0.2", "--steps": "7",
    "--batch": "3", "--lr": "0.01", "--schedule": "constant", "--cycles": "2", "--warmup": "0.3",
    "--energy-weight": "2", "--force-weight": "3", "--stress-weight": "4", "--huber": "0.1", "--weight-decay": "0.1",
    "--average": "0.5", "--patience": "3", "--validate-every": "5", "--energy-key": "e", "--forces-key": "f",
    "--stress-key": "s", "--units": "kcal/mol", "--format": "vasp", "--state": "kept", "--state-interval": "10",
    "--plot": "t.png", "--json": "t.json", "--device": "cpu:0", "--seed": "5", "--output": "other.pt",
    "--overwrite": "",
}  # fmt: skip
SLURM = {
    "--script": "other.sbatch", "--time": "01:00:00", "--partition": "long", "--account": "me", "--gpus": "2",
    "--cpus": "3", "--mem": "7G", "--setup": "module load x", "--notice": "60", "--options": "--seed 3",
    "--overwrite": "",
    "--qos": "high", "--constraint": "a100", "--mail": "me@there", "--logs": ".", "--requeues": "3",
    "--sbatch": "--exclusive",
}  # fmt: skip


def _without(options, *names):
    return {name: value for name, value in options.items() if name not in names}


LABELS = {"--energy-key": "e", "--forces-key": "f", "--stress-key": "s", "--units": "kcal/mol", "--format": "vasp"}
BOUNDS = {"--max-force": "7", "--max-uncertainty": "8", "--max-grade": "2", "--dtype": "float64", "--device": "cpu:0"}

# command: how it is called, and a value for each option. A value may be several words, when others go with it.
CALLS = {
    "extract": (
        "a.xyz -o s --prior labels --prior-energy-key e",
        LABELS | {
            "--store": "other", "--backbone": "schnet", "--layer": "conv2", "--weights": "r2scan",
            "--checkpoint": "w.pt", "--max-neighbors": "9", "--invariants": "norms", "--derivatives": "4",
            "--part": "2/3", "--shard-size": "1M", "--dtype": "float64", "--tangent-dtype": "float16", "--strain": "",
            "--prior": "chgnet", "--compress": "9", "--residual": "1e-3", "--basis": "common --compress 8",
            "--prior-species-map": "Si:Ge", "--prior-length-scale": "0.9", "--prior-energy-key": "other",
            "--prior-forces-key": "f", "--prior-units": "kcal/mol", "--group-key": "run", "--unlabelled": "",
            "--on-duplicate": "newest", "--shard-work": "9", "--workers": "3", "--config-key": "kind",
            "--device": "cpu:0", "--seed": "3", "--timeout": "9",
        },
    ),
    "fit": (
        "--store s -o m.mekrr --solver falkon --ridge 1e-6 --length-scale 2x",
        {
            "--store": "t", "--output": "other.mekrr", "--structures": "a.xyz", "--checkpoint": "kept",
            "--checkpoint-interval": "9", "--timeout": "9", "--sums": "sums", "--dry-run": "", "--plot": "p.png",
            "--no-report": "", "--no-check": "", "--json": "p.json", "--kernel": "matern52",
            "--length-scale": "3x", "--alpha": "0.5", "--mixing": "learn --solver direct",
            "--reduce": "mean", "--standardize": "centre",
            "--kernel-parameters": "offset=2 --kernel polynomial", "--method": "farthest", "--landmarks": "77",
            "--grow-landmarks": "99", "--landmarks-from": "w.mekrr", "--balance": "equal", "--baseline": "composition",
            "--isolated": "H=-13.6", "--store-weight": "2", "--weight": "a=2", "--sigma": "default=1:2:3",
            "--drop-outliers": "", "--no-derivatives": "", "--cut": "1e-9",
            "--whitening": "cholesky", "--energy-precision": "float32", "--derivative-precision": "float64",
            **{f"--{info.name}-weight": "0.2" for info in KINDS.values()}, "--solver": "exact",
            "--ridge": "1e-3", "--rtol": "1e-3", "--max-steps": "9", "--preconditioner": "falkon", "--subset": "0.3",
            "--validate": "3", "--criterion": "1,1,1", "--no-uncertainty": "",
            "--no-embed": "", "--licence": "MIT", "--device": "cpu:0",
            "--memory": "7M", "--scratch": "none", "--seed": "9", "--overwrite": "",
        },
    ),
    "tune": (
        "a.xyz -o t --backbone chgnet",
        LABELS | {
            "--output": "other", "--test": "b.xyz", "--budget": "2h", "--backbone": "sevennet", "--weights": "r2scan",
            "--checkpoint": "w.pt", "--derivatives": "4", "--strain": "yes", "--landmarks": "77", "--validate": "3",
            "--test-share": "0.2", "--prior": "chgnet", "--group-key": "run", "--on-duplicate": "newest",
            "--part": "2/3", "--device": "cpu:0", "--seed": "3",
        },
    ),
    "evaluate": ("m.mekrr a.xyz", LABELS | {
        "--json": "e.json", "--plot": "p.png", "--species-plot": "s.png", "--transfer": "w.mekrr:b.xyz",
        "--report": "r.html", "--transfer-plot": "t.png --transfer w.mekrr:b.xyz", "--no-forces": "",
        "--uncertainty": "", "--device": "cpu:0", "--workers": "3", "--group-key": "g", "--timeout": "9",
        "--overwrite": "",
    }),
    "report": ("m.mekrr --test a.xyz", LABELS | {
        "--store": "b.xyz", "--test": "c.xyz", "--output": "o.html", "--plot": "figures", "--json": "n.json",
        "--device": "cpu:0", "--workers": "3", "--overwrite": "",
    }),
    "predict": ("m.mekrr a.xyz -o p.xyz", {
        "--output": "q.xyz", "--no-forces": "", "--uncertainty": "", "--format": "vasp", "--device": "cpu:0",
        "--workers": "3", "--overwrite": "",
    }),
    "md": ("m.mekrr a.xyz -o r.xyz", BOUNDS | {
        "--output": "q.xyz", "--ensemble": "nve", "--steps": "7", "--timestep": "0.5", "--temperature": "100",
        "--friction": "0.1", "--pressure": "2", "--interval": "3", "--checkpoint": "4", "--every": "5",
        "--compile": "", "--seed": "6", "--plot": "p.png", "--overwrite": "",
    }),
    "label": ("a.xyz --calculator emt -o l.xyz", {
        "--calculator": "tblite", "--output": "q", "--reuse": "", "--workers": "3", "--format": "f", "--overwrite": "",
    }),
    "learn": ("loop.toml", {"--output": "other"}),
    "check": ("m.mekrr a.xyz", {
        "--test": "eos", "--reference": "b.xyz", "--thresholds": "t.toml", "--no-backbone": "", "--plot": "p.png",
        "--json": "c.json", "--device": "cpu:0", "--overwrite": "",
    }),
    "relax": (
        "m.mekrr a.xyz -o r.xyz",
        BOUNDS | {
            "--output": "q.xyz", "--force": "0.1", "--steps": "7", "--cell": "", "--trajectory": "t.xyz",
            "--plot": "p.png", "--overwrite": "",
        },
    ),
    "select": (
        "m.mekrr a.xyz -o n.xyz",
        {
            "--output": "q.xyz", "--count": "1", "--method": "random", "--format": "vasp", "--device": "cpu:0",
            "--seed": "4", "--plot": "p.png", "--overwrite": "",
        },
    ),
    "explain": (
        "m.mekrr a.xyz -o x.xyz",
        {
            "--output": "q.xyz", "--nearest": "5", "--plot": "p.png", "--format": "vasp", "--device": "cpu:0",
            "--overwrite": "",
        },
    ),
    "info": ("m.mekrr", {"--no-load": "", "--json": ""}),
    "pretrain": ("a.xyz -o b.pt", TRAIN | {"--backbone": "dimenet++", "--sizes": "cutoff=6"}),
    "finetune": (
        "a.xyz -o b.pt",
        TRAIN | {
            "--backbone": "schnet", "--train-blocks": "conv1", "--freeze-up-to": "conv1", "--lr-map": "conv1=0.1",
            "--lr-decay": "0.5", "--reset": "conv2", "--species-map": "Si:Ge", "--length-scale": "0.9",
        },
    ),
    "distill": (
        "--teacher chgnet --unlabelled a.xyz -o s.pt",
        {
            "--teacher": "sevennet", "--unlabelled": "b.xyz", "--output": "q.pt", "--student": "schnet-tiny",
            "--test": "b.xyz", "--species-map": "Si:Ge", "--length-scale": "0.9", "--sample-frames": "2",
            "--sample-every": "3", "--temperature": "100", "--rattle": "0.1", "--steps": "7", "--batch": "3",
            "--lr": "0.01", "--energy-weight": "2", "--huber": "0.1", "--average": "0.5", "--landmarks": "9",
            "--derivatives": "3", "--folder": "there", "--json": "d.json", "--energy-key": "e", "--forces-key": "f",
            "--units": "kcal/mol", "--format": "vasp", "--device": "cpu:0", "--seed": "4", "--overwrite": "",
        },
    ),
    "curve": (
        "a.xyz -o c --test b.xyz --sizes 3 --variants finetune",
        {
            "--output": "d", "--test": "c.xyz", "--valid": "b.xyz", "--valid-fraction": "0.2", "--sizes": "4",
            "--repeats": "2", "--variants": "scratch", "--backbone": "schnet", "--weights": "r2scan",
            "--checkpoint": "w.pt", "--layer": "conv2", "--invariants": "products", "--steps": "7", "--batch": "3",
            "--lr": "0.01", "--energy-weight": "2",
            "--force-weight": "3", "--landmarks": "9", "--derivatives": "3", "--energy-key": "e",
            "--forces-key": "f", "--units": "kcal/mol", "--format": "vasp", "--seed": "4",
        },
    ),
    "backbones": ("--blocks chgnet", {"--blocks": "sevennet", "--weights": "r2scan", "--checkpoint": "w.pt"}),
    "env": ("", {"--json": "", "--no-load": ""}),
    "store info": ("s", {"--json": ""}),
    "store verify": ("s", {"--quick": ""}),
    "store finalize": ("s", {"--on-duplicate": "keep", "--allow-incomplete": ""}),
    "store merge": ("s t -o u", {"--output": "v", "--on-duplicate": "newest"}),
    "store repack": (
        "s -o u",
        {
            "--output": "v", "--shard-size": "1M", "--compress": "9", "--residual": "1e-3",
            "--basis": "common --compress 8", "--tangent-dtype": "float16",
        },
    ),
    "slurm evaluate": ("m.mekrr a.xyz", _without(SLURM, "--notice", "--requeues") | {"--options": "--no-forces"}),
    "slurm md": ("m.mekrr a.xyz --options --output=r.xyz", SLURM | {"--options": "-o other.xyz"}),
    "slurm finetune": ("a.xyz --options --output=t.pt", SLURM | {"--options": "-o other.pt"}),
    "slurm curve": (
        "a.xyz --options '-o c --test b.xyz'", _without(SLURM, "--gpus") | {"--options": "-o other --test b.xyz"}
    ),
    "slurm learn": ("loop.toml", _without(SLURM, "--gpus") | {"--options": "-o other"}),
    "slurm tune": ("a.xyz -o t", SLURM | {"--output": "other", "--parts": "3"}),
    "slurm extract": ("a.xyz -o s", SLURM | {"--store": "t", "--parts": "3"}),
    "slurm fit": (
        "fit.toml", SLURM | {"--nodes": "2", "--ranks": "3", "--launcher": "srun", "--checkpoint": "kept"}
    ),
}  # fmt: skip

for _name, (_, _options) in CALLS.items():
    if not _name.startswith(("store", "slurm", "env")):
        _options["--trust-code"] = ""


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
