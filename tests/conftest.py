"""Shared fixtures: small real structures, a tiny SchNet, and a store made with it."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import settings

from mekrr_scale.backbones import BackboneSpec, save_schnet
from mekrr_scale.pipeline import ExtractPlan, FitPlan, KernelPlan, LandmarkPlan, RowPlan, Validation, extract, fit
from mekrr_scale.solvers import Direct
from mekrr_scale.structures import read_structures
from tests import calls, emulated, skips
from tests.crystals import crystals
from tests.warm import forks

DATA = Path(__file__).parent.parent / "examples" / "hcoo_cu110"

collect_ignore = ["mutants"]  # needs an environment of its own
if emulated.ASKED:
    emulated.register()  # before the first gradient of the process
else:  # autograd makes a thread for a device, after which no fork of the process has gradients
    collect_ignore.append("test_devices.py")
if torch.cuda.is_available() and importlib.util.find_spec("triton"):  # which takes no kernel that jaxtyping has wrapped
    kernels = importlib.util.find_spec("mekrr_scale.kernels")
    source = Path(kernels.origin).with_name("triton_sums.py")
    spec_of_kernels = importlib.util.spec_from_file_location("mekrr_scale.kernels.triton_sums", source)
    sys.modules[spec_of_kernels.name] = importlib.util.module_from_spec(spec_of_kernels)
    spec_of_kernels.loader.exec_module(sys.modules[spec_of_kernels.name])
torch.set_num_threads(int(os.environ.get("MEKRR_TEST_THREADS", "1")))
# the same examples in every run, on machines of any speed
settings.register_profile("mekrr", derandomize=True, deadline=None, database=None)
settings.load_profile("mekrr")


def pytest_configure(config):
    if skips.STRICT in os.environ:
        skips.pytest_configure(config)


def pytest_collection_modifyitems(items):
    """Files of long tests come first, so that no worker ends with one of them alone."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def warm():
    with forks() as found:
        yield found


@pytest.fixture(autouse=True)
def calls_are_checked_again():
    calls.clear()


@pytest.fixture(autouse=True)
def same_threads():
    """Other numbers of threads have other last bits: what a test sets (or a program that it calls) ends with it."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def real_structures():
    """Eight DFT structures of formate on Cu(110)."""
    frames = read_structures(DATA / "train.xyz.xz")
    return [next(frames) for _ in range(8)]


def toy_energy(atoms: Atoms) -> tuple[float, np.ndarray]:
    """A smooth pair potential without a cutoff cliff: labels that a kernel can learn."""
    d = atoms.get_all_distances(mic=bool(atoms.pbc.any()), vector=True)
    r = np.linalg.norm(d, axis=-1) + 1e9 * np.eye(len(atoms))
    value, slope = np.exp(-r), -np.exp(-r)
    forces = (slope[..., None] * d / r[..., None]).sum(1)
    return float(0.5 * value.sum() - 1.5 * len(atoms)), forces


@pytest.fixture(scope="session")
def toy_structures():
    """Ragged molecules and cells with exact labels, stress for the cells."""
    generator = np.random.default_rng(0)
    found = []
    for i in range(24):
        atoms = [molecule("H2O"), molecule("CH4"), bulk("C", "diamond", 3.6).repeat(2), molecule("CO")][i % 4]
        atoms.rattle(0.08, rng=generator)
        energy, forces = toy_energy(atoms)
        results = {"energy": energy, "free_energy": energy, "forces": forces}
        if atoms.pbc.any():
            results["stress"] = generator.normal(size=6) * 0.01
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info["trajectory"] = f"run{i % 6}"
        found.append(atoms)
    return found


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A SchNet of 16 channels with random weights, in the package's own format."""
    from torch_geometric.nn.models import SchNet

    torch.manual_seed(0)
    network = SchNet(hidden_channels=16, num_filters=16, num_interactions=3, num_gaussians=12, cutoff=4.0)
    path = tmp_path_factory.mktemp("weights") / "schnet.pt"
    save_schnet(network, path)
    return path


@pytest.fixture(scope="session")
def spec(checkpoint):
    return BackboneSpec("schnet", checkpoint=str(checkpoint))


@pytest.fixture(scope="session")
def toy_file(toy_structures, tmp_path_factory):
    import ase.io

    path = tmp_path_factory.mktemp("data") / "toy.xyz"
    ase.io.write(path, toy_structures, format="extxyz")
    return path


@pytest.fixture(scope="session")
def store(toy_file, spec, tmp_path_factory):
    """A store of several shards with tangents along displacements and strains."""
    folder = tmp_path_factory.mktemp("stores") / "toy"
    plan = ExtractPlan(spec, derivatives=4, strain=True, dtype="float64", shard_bytes=30_000, group_key="trajectory")
    extract(toy_file, folder, plan)
    return folder


@pytest.fixture(scope="session")
def copper_store(tmp_path_factory):
    """Of 24 cells of copper by EMT, on the default backbone."""
    folder = tmp_path_factory.mktemp("copper")
    return extract(crystals(24, seed=3), folder / "s", ExtractPlan(derivatives=6, strain=True)).store


@pytest.fixture(scope="session")
def copper_model(copper_store):
    target = copper_store.path.parent / "cu.mekrr"
    fit(copper_store, FitPlan(landmarks=60)).model.save(target)
    return target


@pytest.fixture(scope="session")
def small_plan():
    return FitPlan(
        kernel=KernelPlan(length_scales="2x", standardize="scale-per-species"),
        landmarks=LandmarkPlan(count=60),
        baseline="composition",
        solver=Direct((1e-8, 1e-6, 1e-4)),
        validation=Validation(folds=3),
    )


@pytest.fixture(scope="session")
def fitted(store, small_plan):
    return fit(store, small_plan)


@pytest.fixture(scope="session")
def model_file(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "toy.mekrr"
    fitted.model.save(path)
    return path


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Call the command line in this process; returns exit code, standard output and standard error.

    The checks at the end of a fit have a second.
    """
    from mekrr_scale import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mekrr_scale.checks.quick.SECONDS", 1.0)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["mekrr-scale", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        output = capsys.readouterr()
        return end.value.code or 0, output.out, output.err

    return call


@pytest.fixture
def run(call):
    """The same, with standard error in one line, however wide the terminal."""

    def run(*arguments):
        code, out, err = call(*arguments)
        return code, out, " ".join(err.split())

    return run


@pytest.fixture(scope="session")
def crystal_store(spec, tmp_path_factory):
    """Forty cells of copper with analytic forces and stress; see tests/crystals.py."""
    folder = tmp_path_factory.mktemp("stores") / "crystals"
    extract(crystals(40, 0), folder, ExtractPlan(spec, derivatives=3, strain=True, dtype="float64"))
    return folder


@pytest.fixture(scope="session")
def crystal_plan():
    return FitPlan(
        kernel=KernelPlan(length_scales="2x", standardize="scale-per-species"),
        landmarks=LandmarkPlan(count=60),
        rows=RowPlan(weights={"force": 1e-2, "stress": 0.1}),
        solver=Direct((1e-8, 1e-6)),
        validation=Validation(folds=3),
    )


@pytest.fixture(scope="session")
def crystal_model(crystal_store, crystal_plan):
    return fit(crystal_store, crystal_plan).model
