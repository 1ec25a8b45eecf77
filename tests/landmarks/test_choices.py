"""Landmarks: what each method chooses."""

from dataclasses import replace

import pytest
import torch

from mekrr_scale.landmarks import FarthestPoint, LeverageScores, Uniform
from tests.solvers.problems import made


@pytest.mark.parametrize("selection", [Uniform(9), FarthestPoint(9), LeverageScores(9), Uniform(9, balance="equal")])
def test_landmark_choices(selection):
    problem, source = made(n=30)
    (batch,), kernel = source.energies, problem.kernel
    landmarks = selection.select([batch], kernel)
    assert landmarks.n_sets == len(landmarks.species) == 9
    atoms = torch.cat([run.features for run in batch.runs])
    assert all(bool((atoms == f).all(1).any()) for f in landmarks.features)
    assert len(torch.unique(landmarks.features, dim=0)) == 9
    again = selection.select([batch], kernel)
    assert torch.equal(again.features, landmarks.features)
    assert set(landmarks.species.tolist()) == {1, 6, 8}  # stratified: no species is left out
    other = replace(selection, seed=1).select([batch], kernel)
    assert not torch.equal(other.features, landmarks.features)


def test_farthest_points_are_farthest():
    problem, source = made(n=30)
    (batch,), kernel = source.energies, problem.kernel
    chosen = FarthestPoint(12).select([batch], kernel)
    uniform = Uniform(12).select([batch], kernel)

    def closest(landmarks):
        z = 6
        points = landmarks.features[landmarks.species == z]
        return float(torch.pdist(points).min())

    assert closest(chosen) > closest(uniform)
