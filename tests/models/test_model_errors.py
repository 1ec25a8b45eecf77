"""What models refuse, and what they say of it."""

import pytest
import torch

from mekrr_scale.arrays import FeatureBatch
from mekrr_scale.engines.lammps import Settings
from mekrr_scale.errors import ConfigError, ModelError
from mekrr_scale.models import Baseline, MekrrCalculator, Model, whiten
from mekrr_scale.structures import SkinList


def test_a_species_without_a_reference():
    batch = FeatureBatch.unlabelled(torch.ones(2, 3), torch.tensor([1, 8]), torch.tensor([2]))
    baseline = Baseline((1,), torch.zeros(1, dtype=torch.float64), prior=False, fitted=False)
    with pytest.raises(ConfigError, match=r"species \[8\] have no reference energy; the baseline knows \[1\]"):
        baseline.predict(batch)


@pytest.mark.parametrize("cut", [0.0, 1.0, -1e-3, float("nan")])
def test_whitening_cuts(cut):
    with pytest.raises(ConfigError, match="it lies between 0 and 1"):
        whiten([torch.eye(2, dtype=torch.float64)], cut)


@pytest.mark.parametrize("skin", [-1.5, float("nan"), float("inf")])
def test_skins_of_neighbour_lists(model_file, skin):
    """Below 0 lists would lack edges."""
    for make in (
        lambda: MekrrCalculator(model_file, skin=skin),
        lambda: Settings(skin=skin),
        lambda: SkinList(4.0, skin),
    ):
        with pytest.raises(ConfigError, match="skin of neighbour lists is .*; give 0 or more"):
            make()


@pytest.mark.parametrize("name", ["folder", "pipe"])
def test_what_is_no_file(tmp_path, name):
    import os

    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="there is no model file"):
        Model.load(tmp_path / name)
