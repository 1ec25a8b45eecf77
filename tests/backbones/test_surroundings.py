"""Torch's global state: what a caller has set changes no result, and loading changes nothing of it."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.backbones import (
    BackboneEnergies,
    Directions,
    evaluating,
    identity_of,
    load_backbone,
    new_backbone,
    tangents,
)
from mekrr_scale.models import MekrrCalculator, Model, Potential
from mekrr_scale.transfer import TrainPlan, pretrain, read_examples


@pytest.fixture(scope="module")
def atoms():
    found = bulk("C", "diamond", 3.6).repeat(2)
    found.rattle(0.08, seed=3)
    return found


@pytest.fixture(scope="module")
def potential(model_file):
    return Potential(model_file, dtype="float64")


def results(predictor, atoms):
    found = predictor.predict(atoms, forces=True, stress=True)
    return torch.cat([found.energy, found.energies, found.forces.flatten(), found.stress.flatten()])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_predictions_are_the_same_in_every_mode(potential, model_file, atoms, mode):
    expected, sure = results(potential, atoms), potential.uncertainty(atoms, forces=True)
    calculator = MekrrCalculator(model_file, dtype="float64")
    with mode():
        assert torch.equal(results(potential, atoms), expected)
        assert torch.equal(potential.uncertainty(atoms, forces=True).forces, sure.forces)
        atoms = atoms.copy()
        atoms.calc = calculator
        forces = atoms.get_forces()
        made_inside = Potential(model_file, dtype="float64")
        assert torch.equal(results(made_inside, atoms), expected)
    atoms.rattle(0.01, seed=1)  # the lists that the calculator keeps are of use outside
    assert np.abs(forces - expected[1 + len(atoms) : 1 + 4 * len(atoms)].reshape(-1, 3).numpy()).max() < 1e-12
    assert np.isfinite(atoms.get_forces()).all()
    assert torch.equal(results(made_inside, atoms), results(potential, atoms))


def test_neighbour_caps_are_the_same_in_inference_mode(model_file, spec):
    """The nearest neighbours are found while the structure is prepared."""
    capped = replace(spec, max_neighbors=3)
    model = Model.load(model_file)
    model = replace(model, weights=None, spec=vars(capped), backbone=identity_of(load_backbone(capped)))
    atoms = molecule("CH4")
    atoms.rattle(0.05, seed=1)
    found = []
    for mode in (torch.enable_grad, torch.inference_mode):
        with mode():
            atoms.calc = MekrrCalculator(model, dtype="float64")
            found.append(atoms.get_forces())
    assert np.array_equal(*found)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_networks_and_tangents_are_the_same_in_every_mode(atoms, mode):
    network = BackboneEnergies(load_backbone("chgnet"))
    small = atoms[:2]
    moves = torch.eye(6, dtype=torch.float32).reshape(6, 2, 3)

    def slopes(how):
        given = Directions.of_displacements(moves)
        found = tangents(network.backbone, network.backbone.graph(small), given, mode=how)
        return torch.cat([found.features.flatten(), found.energy])

    expected, pushed = results(network, small), [slopes("forward"), slopes("reverse")]
    with mode():
        assert torch.equal(results(network, small), expected)
        assert all(torch.equal(slopes(how), value) for how, value in zip(("forward", "reverse"), pushed, strict=True))
        assert torch.equal(results(BackboneEnergies(load_backbone("chgnet")), small), expected)


@pytest.mark.parametrize("default", [torch.float64, torch.float16])
@pytest.mark.parametrize("name", ["chgnet", "schnet"])
def test_loading_takes_and_leaves_nothing(name, default, atoms, spec):
    small = atoms[:2]
    expected = load_backbone(spec if name == "schnet" else name).features(small)
    loaded = loaded_with(default, spec if name == "schnet" else name)
    torch.set_default_dtype(default)
    try:
        assert torch.equal(loaded.features(small), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_loading_of_other_packages_networks_takes_and_leaves_nothing():
    loaded = loaded_with(torch.float64, "sevennet")
    assert {weight.dtype for weight in loaded.module.parameters()} == {torch.float32}


def loaded_with(default, backbone):
    """A backbone that is loaded with another default precision; the random state must stay what it is."""
    before = torch.get_rng_state()
    torch.set_default_dtype(default)
    try:
        loaded = load_backbone(backbone)
        loaded.parameters()
        assert torch.get_default_dtype() == default
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    return loaded


def test_threads_predict_side_by_side(potential, atoms):
    expected = results(potential, atoms)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(found, expected) for found in pool.map(lambda _: results(potential, atoms), range(8)))


def test_forks_predict_after_their_parent_used_threads(potential, atoms):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        big = atoms.repeat((2, 2, 1))
        expected = results(potential, big)
        child = os.fork()
        if child == 0:
            found = False
            try:
                found = bool(torch.allclose(results(potential, big), expected, rtol=1e-9))
            finally:
                os._exit(0 if found else 1)
        for _ in range(6000):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.05)
        else:
            os.kill(child, 9)
            pytest.fail("the child hangs")
        assert status == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


TINY = 1e-39  # float32 has 1.2e-38 as its smallest number of full precision


@pytest.mark.parametrize("flushing", [False, True])
def test_tiny_numbers_are_zero_for_networks_alone(potential, atoms, flushing):
    tiny = torch.full((8,), TINY)
    torch.set_flush_denormal(flushing)
    try:
        with evaluating(False):
            with evaluating():
                assert not tiny.mul(1.0).any()
            assert not tiny.mul(1.0).any()  # the inner block leaves what the outer one has set
        results(potential, atoms)
        with pytest.raises(ZeroDivisionError), evaluating():
            raise ZeroDivisionError
        assert bool(tiny.mul(1.0).any()) != flushing
    finally:
        torch.set_flush_denormal(False)


def test_tiny_numbers_are_zero_in_all_threads():
    code = (
        "import torch; from mekrr_scale.backbones import evaluating\n"
        f"numbers = torch.full((2**20,), {TINY}) + 0.0  # threads are at work before a network is\n"
        "with evaluating(): print(torch.get_num_threads(), int(numbers.mul(1.0).count_nonzero()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "2"}, capture_output=True, check=True
    )
    assert done.stdout.split() == [b"2", b"0"]


@pytest.mark.parametrize("flushing", [False, True])
def test_tiny_weights_leave_the_identity(spec, flushing):
    backbone = load_backbone(spec)
    weight = next(weight for weight in backbone.module.parameters() if weight.numel() > 1)
    expected = []
    torch.set_flush_denormal(flushing)
    try:
        for tiny in (TINY, -TINY, 0.0, -0.0):
            with torch.no_grad():
                weight.view(-1)[0] = tiny
            expected.append(backbone.to(dtype=torch.float32).identity())
            assert backbone.to(dtype=torch.float64).identity() == expected[-1]
            backbone.to(dtype=torch.float32)
    finally:
        torch.set_flush_denormal(False)
    assert expected[:2] == expected[2:]


def test_training_takes_tiny_numbers_for_zero(atoms, spec, monkeypatch):
    """By the mode in which the optimiser steps."""
    seen = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda *given: seen.append(torch.tensor([TINY]).mul(1.0).any()) or step(*given)
    )
    labelled = atoms[:2]
    labelled.calc = SinglePointCalculator(labelled, energy=0.1)
    examples = read_examples([labelled])
    with torch.no_grad():
        pretrain(new_backbone(spec), examples, examples, TrainPlan(steps=2))
    assert [bool(one) for one in seen] == [False, False]
