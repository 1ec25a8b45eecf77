"""The list of cases: what is run, on which data, and what is compared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Part:
    """Some frames of a data file, in examples/ or in the shared development data."""

    path: str
    frames: slice
    stressed: bool = False


_HCOO, _SI, _BPA = "examples/hcoo_cu110/train.xyz.xz", "examples/transfer/Si.xyz.xz", "mol_3bpa/train_300K.xyz.xz"

DATA: Mapping[str, Part] = {
    "hcoo.xyz": Part(_HCOO, slice(0, 120, 5)),
    "hcoo-more.xyz": Part(_HCOO, slice(2, 120, 20)),
    "hcoo-few.xyz": Part(_HCOO, slice(0, 120, 20)),
    "hcoo-test.xyz": Part("examples/hcoo_cu110/test.xyz.xz", slice(0, 40, 10)),
    "hcoo-start.xyz": Part("examples/hcoo_cu110/test.xyz.xz", slice(3, 4)),
    "si.xyz": Part(_SI, slice(0, 22), stressed=True),
    "si-more.xyz": Part(_SI, slice(22, 24), stressed=True),
    "si-few.xyz": Part(_SI, slice(0, 24, 5), stressed=True),
    "si-test.xyz": Part(_SI, slice(3, 24, 6), stressed=True),
    "si-start.xyz": Part(_SI, slice(3, 4)),
    "bpa.xyz": Part(_BPA, slice(0, 480, 20)),
    "bpa-more.xyz": Part(_BPA, slice(5, 480, 80)),
    "bpa-few.xyz": Part(_BPA, slice(0, 480, 80)),
    "bpa-test.xyz": Part(_BPA, slice(3, 480, 120)),
    "bpa-start.xyz": Part(_BPA, slice(3, 4)),
    "bpa-many.xyz": Part(_BPA, slice(0, 480, 3)),
    "ge.xyz": Part("examples/transfer/Ge.xyz.xz", slice(0, 24, 4)),
    "h2co.xyz": Part("examples/transfer/h2co_both.xyz.xz", slice(0, 60, 3)),
    "h2co-few.xyz": Part("examples/transfer/h2co_both.xyz.xz", slice(1, 60, 12)),
}

SYSTEMS = ("hcoo", "bpa", "si")
ONLY = {  # what is tried on fewer systems, to save time
    "leverage": "hcoo", "farthest": "bpa hcoo", "structures": "si bpa", "matern32": "bpa", "matern52": "hcoo si",
    "linear": "hcoo", "standardize": "hcoo si", "one": "si", "falkon-anew-2-ranks": "hcoo", "falkon-classical-2-ranks": "bpa",
    "falkon-scratch-2-ranks": "si", "falkon-mean": "hcoo bpa", "evaluate-2-ranks": "hcoo", "select-variance": "hcoo", "explain": "bpa si",
    "evaluate-store": "hcoo si", "predict-mean": "hcoo bpa",
}  # fmt: skip
ISOLATED = {
    "hcoo": "H = -13.6, C = -146.0, O = -432.0, Cu = -1305.0",
    "bpa": "H = -13.58722278, C = -1029.48899999, N = -1484.98145686, O = -2041.98160039",
    "si": "Si = -0.8",
}


@dataclass(frozen=True)
class Case:
    """Commands, and the files and folders that they leave to be compared."""

    name: str
    commands: tuple[str, ...]
    results: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)  # written before, by name
    ranks: int = 1
    says: bool = True  # whether the last line that each command prints is compared

    @cached_property
    def words(self) -> frozenset[str]:
        """Whatever may be the name of a file in the commands and files."""
        return frozenset(re.split(r"[\s:,\"\[\]={}]+", " ".join([*self.commands, *self.files.values()])))


def all_cases() -> list[Case]:
    found = [case for system in SYSTEMS for case in _of_system(system) if _wanted(case, system)]
    return [*found, *_other_stores(), *_other_fits(), *_other_networks()]


def _of_system(s: str) -> Iterator[Case]:
    yield from _stores(s)
    yield from _fits(s)
    yield from _solvers(s)
    yield from _networks(s)
    yield from _uses(s)


def _wanted(case: Case, system: str) -> bool:
    what = case.name.partition("/")[2].removesuffix(f"-{system}")
    return system in ONLY.get(what, system).split()


def _stores(s: str) -> Iterator[Case]:
    extract = "--derivatives 4 --strain --shard-size 400K"
    yield _case(f"store/{s}", f"extract {s}.xyz -o {s} {extract}", s)
    yield _case(f"store/more-{s}", f"extract {s}-more.xyz -o {s}-more {extract}", f"{s}-more")
    yield _case(
        f"store/sevennet-{s}", f"extract {s}-few.xyz -o {s}-7 --backbone sevennet --derivatives 2 --strain", f"{s}-7"
    )
    yield _case(
        f"store/prior-model-{s}", f"extract {s}-few.xyz -o {s}-prior --prior {s}.mekrr --derivatives 4", f"{s}-prior"
    )
    yield _case(f"store/schnet-{s}", f"extract {s}-few.xyz -o {s}-schnet --backbone schnet --checkpoint {s}.pt", f"{s}-schnet")  # fmt: skip


def _fits(s: str) -> Iterator[Case]:
    """Solver direct: candidates of every kind, one kind a fit."""

    def fit(name: str, flags: str, store: str = s) -> Case:
        return _fit(f"fit/{name}-{s}", f"--store {store} {flags}", f"{s}-{name}.mekrr")

    few = "--force-weight 1e-3 --baseline composition --length-scale 2x"
    yield _fit(f"fit/direct-{s}", f"--store {s} --length-scale 2x --baseline composition", f"{s}.mekrr")
    yield fit("alphas", "--alpha 0,0.3,1 --length-scale 2x,4x")
    for method in ("displaced", "farthest", "leverage"):
        yield fit(method, f"--method {method} {few}")
    yield fit("structures", f"--method structures --landmarks 8 {few}")
    for kernel in ("matern32", "matern52", "linear"):
        yield fit(kernel, f"--kernel {kernel} {few}")
    yield fit("gaussian-sum", "--kernel gaussian-sum --length-scale 1x,2x,4x --force-weight 1e-3")
    yield fit("standardize", f"--standardize none,centre,scale,centre-per-species {few}")
    yield fit("mean", f"--reduce mean --alpha 0.5 {few}")
    yield fit("one", f"--validate 0 --ridge 1e-7 {few}")
    yield fit("backbone", "--baseline backbone --force-weight 1e-3,1e-2")
    yield fit("prior", "--baseline prior --landmarks 40 --force-weight 1e-3", f"{s}-prior")
    yield fit("sevennet", "--landmarks 40 --force-weight 1e-3", f"{s}-7")
    yield fit("landmarks-from", f"--landmarks-from {s}.mekrr --landmarks 20 {few}")
    yield fit("store-weight", f"--store {s}-more --store-weight 0.1,1 {few}")
    yield _toml(
        f"fit/energies-{s}",
        s,
        '[kernel]\nlength_scale = "3x"\n[solver]\nderivatives = false\nwhitening = "cholesky"\n',
        '[landmarks]\nbalance = "equal"\n',
    )
    yield _toml(
        f"fit/polynomial-{s}",
        s,
        'uncertainty = false\n[kernel]\nname = "polynomial"\nparameters = { offset = 1.0, degree = 2 }\n',
        f'[baseline]\nkind = "isolated"\nisolated = {{ {ISOLATED[s]} }}\n',
        '[landmarks]\nbalance = "proportional"\n[solver]\nforce_weight = [1e-3]\n',
    )
    yield _toml(
        f"fit/weights-{s}",
        s,
        '[kernel]\nlength_scale = "2x"\n[solver]\nenergy_weight = [0.1, 1.0]\nforce_weight = [1e-3, 1e-1]\n',
        "stress_weight = [0.0, 1e-2]\nselect = [1.0, 1e-4, 1e-3]\n",
    )
    sums = f"--sums {s}-sums --ridge 1e-9,1e-6 --landmarks 80 --validate 3 {few}"
    yield Case(
        f"fit/sums-{s}",
        (f"fit --store {s} -o {s}-sums-1.mekrr {sums}", f"fit --store {s} --store {s}-more -o {s}-sums-2.mekrr {sums}"),
        (f"{s}-sums-1.mekrr", f"{s}-sums-2.mekrr", f"{s}-sums"),
    )


def _solvers(s: str) -> Iterator[Case]:
    few = "--force-weight 1e-3 --baseline composition --length-scale 2x"
    cg = "[solver.falkon]\nmax_steps = 60\nrtol = 1e-10\n"
    small = f'[kernel]\nlength_scale = "2x"\n[solver]\nforce_weight = [1e-3]\n{cg}'
    yield _fit(f"fit/exact-{s}", f"--store {s} --solver exact", f"{s}-exact.mekrr")
    yield _fit(f"fit/direct-2-ranks-{s}", f"--store {s} {few}", f"{s}-direct-2.mekrr", ranks=2)
    yield _toml(f"fit/falkon-energies-{s}", s, "[solver]\nderivatives = false\n", flags="--solver falkon")
    kinds = {
        "kept": ("", 1), "2-ranks": ("", 2),
        "scratch": ("--memory 50K --scratch scratch", 1), "scratch-2-ranks": ("--memory 50K --scratch scratch", 2),
        "anew": ("--memory 50K --scratch none", 1), "anew-2-ranks": ("--memory 50K --scratch none", 2),
        "mean": ("--reduce mean --alpha 0.5", 1),
    }  # fmt: skip
    for name, (flags, ranks) in kinds.items():
        yield _toml(f"fit/falkon-{name}-{s}", s, small, flags=f"--solver falkon {flags}", ranks=ranks)
    for name, ranks in (("classical", 1), ("classical-2-ranks", 2)):
        yield _toml(
            f"fit/falkon-{name}-{s}", s, small, 'preconditioner = "falkon"\n', flags="--solver falkon", ranks=ranks
        )
    free = f"--structures {s}-few.xyz --solver falkon --landmarks 40 {few} --validate 2"
    yield _toml(f"fit/matrix-free-{s}", f"{s}-schnet", "[solver.falkon]\nmax_steps = 15\n", flags=free)


def _networks(s: str) -> Iterator[Case]:
    sizes = "hidden_channels=16,num_filters=16,num_interactions=2,num_gaussians=12,cutoff=4"
    yield _case(
        f"network/pretrain-{s}",
        f"pretrain {s}.xyz -o {s}.pt --sizes {sizes} --steps 12 --batch 2 --lr 5e-3 --json {s}-pretrain.json",
        f"{s}.pt",
        f"{s}-pretrain.json",
    )
    yield _case(
        f"network/finetune-{s}",
        f"finetune {s}-few.xyz -o {s}-tuned.pt --valid {s}-start.xyz --freeze-up-to conv2 --steps 3 --batch 2 "
        f"--lr 1e-3 --average 0 --validate-every 1 --json {s}-tuned.json",
        f"{s}-tuned.pt",
        f"{s}-tuned.json",
    )
    yield _case(f"network/tuned-store-{s}", f"extract {s}-few.xyz -o {s}-tuned --checkpoint {s}-tuned.pt --derivatives 2", f"{s}-tuned")  # fmt: skip
    yield _fit(f"network/tuned-fit-{s}", f"--store {s}-tuned --landmarks 40 --validate 2", f"{s}-tuned.mekrr")
    common = f"distill --teacher {s}.mekrr --unlabelled {s}-few.xyz --test {s}-start.xyz"
    yield _case(
        f"network/distill-{s}",
        f"{common} --student schnet-tiny --steps 4 --batch 2 --rattle 0.05 --sample-frames 1 --sample-every 2 "
        f"-o {s}-student.pt --json {s}-student.json",
        f"{s}-student.pt",
        f"{s}-student.json",
        f"{s}-student.pt.distilled/labelled.xyz",
    )
    yield _case(
        f"network/distill-kernel-{s}",
        f"{common} --student kernel:chgnet --landmarks 40 --derivatives 2 -o {s}-student.mekrr --json {s}-kernel.json",
        f"{s}-student.mekrr",
        f"{s}-kernel.json",
    )


def _uses(s: str) -> Iterator[Case]:
    model, test = f"{s}.mekrr", f"{s}-test.xyz"
    yield _silent(f"use/evaluate-{s}", f"evaluate {model} {test} --json {s}-errors.json", f"{s}-errors.json")
    yield _silent(f"use/evaluate-store-{s}", f"evaluate {model} {s}-more --json {s}-store.json", f"{s}-store.json")
    yield _silent(
        f"use/evaluate-2-ranks-{s}", f"evaluate {model} {s} --json {s}-ranks.json", f"{s}-ranks.json", ranks=2
    )
    yield _silent(
        f"use/evaluate-prior-{s}", f"evaluate {s}-prior.mekrr {test} --json {s}-on-prior.json", f"{s}-on-prior.json"
    )
    yield _case(f"use/predict-{s}", f"predict {model} {test} -o {s}-predicted.xyz --uncertainty", f"{s}-predicted.xyz")
    yield _case(f"use/predict-mean-{s}", f"predict {s}-mean.mekrr {test} -o {s}-by-mean.xyz", f"{s}-by-mean.xyz")
    yield _silent(f"use/explain-{s}", f"explain {model} {test} -o {s}-parts.xyz", f"{s}-parts.xyz")
    for method in ("greedy", "variance"):
        chosen = f"{s}-{method}.xyz"
        yield _case(
            f"use/select-{method}-{s}", f"select {model} {s}-few.xyz -n 3 --method {method} -o {chosen}", chosen
        )
    simulate = f"md {model} {s}-start.xyz --steps 6 --interval 2 --checkpoint 3"
    yield _case(
        f"use/nve-{s}",
        f"{simulate} -o {s}-nve.xyz --ensemble nve --temperature 200",
        f"{s}-nve.xyz",
        f"{s}-nve.restart.json",
    )
    bounds = "--max-grade 1000 --every 2"
    yield _case(f"use/langevin-{s}", f"{simulate} -o {s}-nvt.xyz {bounds}", f"{s}-nvt.xyz", f"{s}-nvt.restart.json")
    yield _case(
        f"use/relax-{s}", f"relax {model} {s}-start.xyz -o {s}-relaxed.traj --force 4 --trajectory {s}-path.xyz",
        f"{s}-relaxed.traj", f"{s}-path.xyz",
    )  # fmt: skip


def _other_stores() -> Iterator[Case]:
    yield _case("store/float16-hcoo", "extract hcoo-few.xyz -o half --derivatives 4 --tangent-dtype float16", "half")
    yield _fit("fit/float16-hcoo", "--store half --landmarks 40", "half.mekrr")
    yield _case("store/float64-h2co", "extract h2co.xyz -o h2co --dtype float64 --derivatives all", "h2co")
    yield _case("store/plain-h2co", "extract h2co-few.xyz -o h2co-plain", "h2co-plain")
    yield _case(
        "store/labels-h2co",
        "extract h2co.xyz -o h2co-delta --prior labels --prior-energy-key energy_b3lyp --prior-forces-key "
        "forces_b3lyp --derivatives 6",
        "h2co-delta",
    )
    yield _fit("fit/labels-h2co", "--store h2co-delta --baseline prior", "h2co-delta.mekrr", landmarks=40)
    yield _case(
        "store/keys-h2co",
        "extract h2co.xyz -o h2co-keys --energy-key energy_b3lyp --forces-key forces_b3lyp --units kcal/mol "
        "--derivatives 2 --layer conv2 --weights 0.2.0 --seed 5",
        "h2co-keys",
    )
    yield _case("store/groups-si", "extract si.xyz -o si-groups --group-key group --unlabelled", "si-groups")
    yield _fit("fit/groups-si", "--store si-groups --landmarks 40 --validate 2", "si-groups.mekrr")
    yield _case("store/2-ranks-bpa", "extract bpa-few.xyz -o bpa-ranks --shard-size 40K", "bpa-ranks", ranks=2)
    parts = _as_before("extract bpa-few.xyz -o bpa-parts --shard-size 40K --derivatives 2")
    yield Case(
        "store/parts-bpa",
        (f"{parts} --part 2/2", f"{parts} --part 1/2", "store finalize bpa-parts", "store repack bpa-parts -o bpa-packed",
         "store merge bpa-packed -o bpa-merged"),
        ("bpa-parts", "bpa-packed", "bpa-merged"),
        says=False,
    )  # fmt: skip
    yield _case(
        "store/prior-backbone-ge",
        "extract ge.xyz -o ge-prior --prior ge.pt --prior-length-scale 1.01 --derivatives 4",
        "ge-prior",
    )
    yield _case("store/ge", "extract ge.xyz -o ge --derivatives 4 --strain", "ge")
    yield _case(
        "store/dimenet-h2co", "extract h2co.xyz -o h2co-dime --backbone dimenet++ --checkpoint dime.pt --derivatives 2",
        "h2co-dime",
    )  # fmt: skip


def _other_fits() -> Iterator[Case]:
    few = "--force-weight 1e-3 --baseline composition --length-scale 2x --landmarks 50 --validate 2 --ridge 1e-8,1e-6"
    both = "--store si --store ge"
    yield _case("fit/mixing-learn-si-ge", f"fit {both} --store-weight 0.01,1 --mixing learn -o both.mekrr {few}", "both.mekrr")  # fmt: skip
    yield _toml(
        "fit/mixing-matrix-hcoo",
        "hcoo",
        "[kernel]\nmixing = { H = [1.0, 0.1, 0.2, 0.0], C = [0.1, 1.0, 0.3, 0.0], O = [0.2, 0.3, 1.0, 0.1], "
        "Cu = [0.0, 0.0, 0.1, 1.0] }\n",
        flags=few,
    )
    yield _case("store/many-bpa", "extract bpa-many.xyz -o bpa-many --shard-size 400K", "bpa-many")
    for solver, ranks in (("direct", 1), ("falkon", 2)):  # a rank above 4096: Cholesky in panels
        yield _toml(
            f"fit/panels-{solver}-bpa",
            "bpa-many",
            'uncertainty = false\n[kernel]\nname = "matern32"\nlength_scale = "0.5x"\n[baseline]\nkind = "composition"\n',
            flags=f"--solver {solver} --landmarks 4250 --ridge 1e-7,1e-5",
            ranks=ranks,
        )
    yield _toml(
        "fit/matrix-free-h2co",
        "h2co-plain",
        "[solver.falkon]\nmax_steps = 8\n",
        flags="--solver falkon --structures h2co-few.xyz --force-weight 1e-2 --landmarks 12 --validate 2 --ridge 1e-7",
    )
    yield _fit("fit/all-directions-h2co", "--store h2co --landmarks 40", "h2co.mekrr")
    yield _silent(
        "use/transfer-table",
        "evaluate si.mekrr si-test.xyz --transfer both.mekrr:ge.xyz --json table.json",
        "table.json",
    )
    yield _case("use/predict-labels-h2co", "predict h2co-delta.mekrr h2co-few.xyz -o h2co-predicted.xyz", "h2co-predicted.xyz")  # fmt: skip
    md = "md si.mekrr si-start.xyz -o si-npt.xyz --ensemble npt --pressure 0.1 --steps 4 --interval 2 --dtype float64"
    yield _case("use/npt-si", md, "si-npt.xyz", "si-npt.restart.json")
    yield _case("use/relax-cell-si", "relax si.mekrr si-start.xyz -o si-cell.traj --cell --force 4", "si-cell.traj")


def _other_networks() -> Iterator[Case]:
    sizes = "hidden_channels=16,out_emb_channels=16,num_blocks=2,cutoff=4"
    yield _case(
        "network/dimenet-h2co",
        f"pretrain h2co.xyz -o dime.pt --backbone dimenet++ --sizes {sizes} --steps 4 --huber 0.1",
        "dime.pt",
    )
    yield _case(
        "network/sevennet-h2co",
        "finetune h2co.xyz -o seven.pt --backbone sevennet --steps 3 --batch 2 --lr-decay 0.3 --reset readout",
        "seven.pt",
    )
    yield _case(
        "network/element-ge",
        "finetune ge.xyz -o ge.pt --backbone schnet --checkpoint si.pt --species-map Si:Ge --length-scale 0.949 "
        "--steps 12 --lr-map embedding=0,interactions=5e-3,readout=1e-2 --cycles 2 --weight-decay 1e-3",
        "ge.pt",
    )
    curve = "curve bpa.xyz --test bpa-start.xyz --valid bpa-test.xyz -o bpa-curve --sizes 3,5 --repeats 1 --lr 1e-3 --steps 3"
    yield _silent(
        "network/curve-bpa",
        f"{curve} --backbone schnet --checkpoint bpa.pt --landmarks 40 --derivatives 2 "
        "--variants scratch:schnet-tiny,finetune,frozen:interaction1,discriminative:0.5,kernel-finetuned:interaction1",
        "bpa-curve",
        "bpa-curve/curve.csv",
    )
    yield _silent(
        "network/curve-chgnet-h2co",
        "curve h2co.xyz --test h2co-few.xyz -o h2co-curve --sizes 8 --repeats 1 --lr 1e-4,1e-3 --steps 2 --landmarks 20 "
        "--derivatives 4 --variants kernel,frozen:conv3,kernel-finetuned",
        "h2co-curve",
    )


def _case(name: str, command: str, *results: str, ranks: int = 1) -> Case:
    return Case(name, (_as_before(command),), results, ranks=ranks)


def _as_before(command: str) -> str:
    """An extraction whose tangents are what 0.1.0 made by default."""
    halved = command.startswith("extract ") and "--derivatives" in command and "--tangent-dtype" not in command
    return f"{command} --tangent-dtype same" if halved else command


def _silent(name: str, command: str, *results: str, ranks: int = 1) -> Case:
    """A case whose command prints tables alone."""
    return Case(name, (command,), results, ranks=ranks, says=False)


def _fit(name: str, flags: str, model: str, ranks: int = 1, landmarks: int = 80) -> Case:
    """A fit; flags that are given take the place of the usual ones."""
    usual = {"--landmarks": str(landmarks), "--validate": "3", "--ridge": "1e-9,1e-7,1e-5"}
    more = " ".join(f"{flag} {value}" for flag, value in usual.items() if flag not in flags.split())
    return _case(name, f"fit {flags} -o {model} {more}", model, ranks=ranks)


def _toml(name: str, store: str, *parts: str, flags: str = "", ranks: int = 1) -> Case:
    """A fit whose options stand in a file."""
    file = name.partition("/")[2]
    head = f'store = "{store}"\noutput = "{file}.mekrr"\n' + ("" if "--validate" in flags else "validate = 3\n")
    text = head + "".join(parts)
    usual = {"--landmarks": "80", "--ridge": "1e-9,1e-7,1e-5"}
    more = "".join(f" {flag} {value}" for flag, value in usual.items() if flag not in flags.split())
    command = f"fit {file}.toml {flags}{more}"
    return Case(name, (command,), (f"{file}.mekrr",), {f"{file}.toml": text}, ranks)
