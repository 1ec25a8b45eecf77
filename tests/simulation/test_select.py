"""Choosing structures: the greedy choice against its definition, diversity, the command line."""

import os
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch

from mekrr_scale.arrays import Landmarks
from mekrr_scale.errors import ConfigError, ModelError
from mekrr_scale.models import Model, Potential, Variances
from mekrr_scale.simulation import choose, select
from mekrr_scale.simulation.pools import TRAINING, PoolMap
from mekrr_scale.simulation.selection import Pool
from tests import reference

ROOT = Path(__file__).parents[2]
OUTSIDE = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def potential(model_file):
    return Potential(Model.load(model_file), dtype=torch.float64)


@pytest.fixture(scope="module")
def candidates(toy_structures):
    generator = np.random.default_rng(7)
    found = []
    for atoms in toy_structures[:12]:
        moved = atoms.copy()
        moved.positions += 0.1 * generator.normal(size=moved.positions.shape)
        found.append(moved)
    return found


def test_covariances(potential, candidates):
    """The covariance of a candidate with itself is its variance; the matrix is symmetric and positive."""
    pool = Pool.of(potential.model, [potential.batch(candidates[:5]), potential.batch(candidates[5:])])
    matrix = torch.stack([pool.covariance(i) for i in range(12)])
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-6, atol=1e-12 * float(matrix.abs().max()))
    torch.testing.assert_close(matrix.diagonal(), pool.variance, rtol=1e-6, atol=0)
    assert float(torch.linalg.eigvalsh(matrix)[0]) > -1e-9 * float(matrix.diagonal().max())
    variances = Variances(potential.model.kernel, potential.model.landmarks, potential.model.posterior)
    whole = potential.batch(candidates)
    torch.testing.assert_close(pool.variance, variances.structures(whole) / whole.n_atoms.double() ** 2)


def dense_covariance(model, batch):
    """Of energies per atom, by double loops over atoms: what landmarks leave open, and what training does."""
    structures, landmarks = reference.structures_of(batch), reference.landmark_sets(model.landmarks)
    with_landmarks = reference.dense_gram(model.kernel, structures, landmarks)
    inner = reference.dense_gram(model.kernel, landmarks, landmarks)
    values, vectors = torch.linalg.eigh(inner)
    kept = values > model.posterior.cut * values.max()
    inside = with_landmarks @ vectors[:, kept] / values[kept].sqrt()
    outside = reference.dense_gram(model.kernel, structures, structures) - inside @ inside.T
    left = with_landmarks @ model.posterior.factor
    n = batch.n_atoms.double()
    return (model.posterior.energy.outside_weight * outside + left @ left.T) / (n[:, None] * n)


@pytest.fixture(scope="module")
def matrix(potential, candidates):
    return dense_covariance(potential.model, potential.batch(candidates))


def test_covariances_by_dense_algebra(potential, candidates, matrix):
    """Every pair of candidates, within a batch and across."""
    pool = Pool.of(potential.model, [potential.batch(candidates[:5]), potential.batch(candidates[5:])])
    found = torch.stack([pool.covariance(i) for i in range(12)])
    largest = float(matrix.diagonal().max())
    torch.testing.assert_close(found, matrix, rtol=1e-4, atol=1e-6 * largest)
    torch.testing.assert_close(pool.variance, matrix.diagonal(), rtol=1e-4, atol=1e-6 * largest)
    pairs = matrix - torch.diag(matrix.diagonal())
    assert float(pairs.abs().max()) > 0.05 * largest  # they are not all that small


def test_greedy_against_its_definition(potential, candidates, matrix):
    """Each choice has the largest variance once those before it are conditioned on, by dense algebra."""
    batch = potential.batch(candidates)
    found = choose(potential.model, [batch], 6)
    scale = potential.model.posterior.energy.within_68
    for k in range(6):
        done = list(found.indices[:k])
        inner = matrix[done][:, done]
        left = matrix.diagonal() - (matrix[:, done] @ torch.linalg.pinv(inner, hermitian=True) * matrix[:, done]).sum(1)
        left[done] = -torch.inf
        assert found.indices[k] == int(left.argmax())
        assert float(found.remaining[k]) == pytest.approx(scale * float(left.max()) ** 0.5, rel=1e-4)


def test_copies_are_not_chosen_twice(potential, candidates):
    several = [candidates[3]] * 4 + [candidates[0], candidates[1], candidates[2]]
    greedy = select(potential, several, 4)
    assert len(set(greedy.indices) & {0, 1, 2, 3}) == 1
    variance = select(potential, several, 4, "variance")
    assert list(variance.uncertainty) == sorted(variance.uncertainty, reverse=True)
    random = select(potential, several, 4, "random", seed=1)
    assert len(set(random.indices)) == 4
    assert random.indices == select(potential, several, 4, "random", seed=1).indices


def test_elements_that_no_landmark_has_are_on_the_map(potential, candidates):
    """Their atoms are shown about their own mean."""
    marks = potential.model.landmarks
    kept = marks.species != 8
    few = Landmarks(marks.features[kept], marks.species[kept], marks.owner[kept], marks.n_sets)
    batches = [potential.batch(candidates[:5]), potential.batch(candidates[5:])]
    whole, found = (PoolMap.of(each, batches, (0, 3)) for each in (marks, few))
    oxygen = torch.cat([run.features for batch in batches for run in batch.runs if run.z == 8])
    assert torch.equal(found.kinds[found.kinds != TRAINING], whole.kinds[whole.kinds != TRAINING])
    shown = found.atoms[found.kinds != TRAINING]
    for row in oxygen - oxygen.mean(0):
        assert float((shown - row).abs().amax(1).min()) < 1e-12
    assert found.structures.isfinite().all()


def test_refusals(potential, candidates, fitted):
    from dataclasses import replace

    batch = potential.batch(candidates)
    with pytest.raises(ConfigError, match="ask for 1 to 12"):
        choose(potential.model, [batch], 13)
    with pytest.raises(ModelError, match="cannot tell its uncertainty"):
        choose(replace(potential.model, posterior=None), [batch], 2)


def test_command_line(run, model_file, candidates, tmp_path):
    ase.io.write(tmp_path / "pool.xyz", candidates)
    command = ("select", model_file, "pool.xyz")
    code, _, err = run(*command, "-n", "3", "-o", "next.xyz")
    assert code == 0, err
    chosen = ase.io.read(tmp_path / "next.xyz", ":")
    assert len(chosen) == 3
    for atoms in chosen:
        np.testing.assert_allclose(atoms.positions, candidates[atoms.info["index"]].positions, atol=1e-7)
    assert chosen[0].info["remaining_uncertainty_per_atom"] >= chosen[2].info["remaining_uncertainty_per_atom"]
    code, _, err = run(*command, "-n", "99", "-o", "x.xyz")
    assert code == 2
    assert "ask for 1 to 12" in err
    # in a process without run-time checks of types, which would find the misspelt word first
    misspelt = [sys.executable, "-m", "mekrr_scale", *map(str, command), "--method", "gredy", "-o", "x.xyz"]
    done = subprocess.run(misspelt, cwd=tmp_path, env=OUTSIDE, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Do you mean 'greedy'" in " ".join(done.stderr.split())
