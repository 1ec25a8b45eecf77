"""Every command as it is called, and a value for each of its options."""

from mekrr_scale.arrays import KINDS

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
BOUNDS |= {"--max-memory": "4GB", "--d3": "pbe"}

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
            "--ignore-charge": "",
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
            "--part": "2/3", "--device": "cpu:0", "--seed": "3", "--ignore-charge": "",
        },
    ),
    "evaluate": ("m.mekrr a.xyz", LABELS | {
        "--json": "e.json", "--plot": "p.png", "--species-plot": "s.png", "--transfer": "w.mekrr:b.xyz",
        "--report": "r.html", "--transfer-plot": "t.png --transfer w.mekrr:b.xyz", "--no-forces": "",
        "--uncertainty": "", "--device": "cpu:0", "--max-memory": "4GB", "--workers": "3", "--group-key": "g",
        "--timeout": "9", "--d3": "pbe", "--overwrite": "",
    }),
    "report": ("m.mekrr --test a.xyz", LABELS | {
        "--store": "b.xyz", "--test": "c.xyz", "--output": "o.html", "--plot": "figures", "--json": "n.json",
        "--device": "cpu:0", "--workers": "3", "--overwrite": "",
    }),
    "predict": ("m.mekrr a.xyz -o p.xyz", {
        "--output": "q.xyz", "--no-forces": "", "--uncertainty": "", "--format": "vasp", "--compile": "",
        "--device": "cpu:0", "--workers": "3", "--max-memory": "4GB", "--d3": "pbe", "--overwrite": "",
    }),
    "md": ("m.mekrr a.xyz -o r.xyz", BOUNDS | {
        "--output": "q.xyz", "--ensemble": "nve", "--steps": "7", "--timestep": "0.5", "--temperature": "100",
        "--friction": "0.1", "--pressure": "2", "--interval": "3", "--checkpoint": "4", "--every": "5",
        "--compile": "", "--seed": "6", "--plot": "p.png", "--overwrite": "",
    }),
    "lammps run": ("in.lammps", {
        "--var": "T=300", "--log": "run.log", "--max-uncertainty": "8", "--max-grade": "2",
        "--every": "5 --max-grade 2", "--dtype": "float32", "--compile": "", "--device": "cpu:0", "--d3": "pbe",
    }),
    "lammps build": ("", {"--output": "there"}),
    "lammps path": ("", {"--output": "there"}),
    "export": ("m.mekrr -o m.pt", {
        "--output": "n.pt", "--format": "mliap -o n.mliap", "--dtype": "float32",
        "--compile": "--format mliap -o n.mliap", "--overwrite": "",
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
            "--plot": "p.png", "--compile": "", "--overwrite": "",
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
    if not _name.startswith(("store", "slurm", "env", "lammps build", "lammps path")):
        _options["--trust-code"] = ""
