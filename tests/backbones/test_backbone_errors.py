"""What loading refuses, and that the conformance suite finds what is wrong with a backbone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms

from mekrr_scale.backbones import (
    BackboneEnergies,
    check_backbone,
    load_backbone,
    new_schnet,
)
from mekrr_scale.errors import BackboneError, ConfigError


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("schnt", {}, "there is no backbone 'schnt'. Do you mean 'schnet'"),
        ("schnet", {}, "backbone schnet needs --checkpoint"),
        ("schnet", {"layr": "conv1"}, "backbones take no option 'layr'. Do you mean 'layer'"),
        ("chgnet", {"max_neighbors": 3}, "backbone chgnet takes no option max_neighbors; it takes"),
    ],
)
def test_options(name, options, message):
    with pytest.raises(BackboneError, match=message):
        load_backbone(name, **options)


def spoilt(checkpoint, folder, change):
    data = torch.load(checkpoint, weights_only=True)
    data.pop("seal", None)
    change(data)
    torch.save(data, folder / "spoilt.pt")
    return str(folder / "spoilt.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["config"].pop("cutoff"), "the configuration in .* lacks cutoff"),
        (lambda data: data["config"].update(hidden_channels=10**9), "hidden_channels=1000000000 is no size of a"),
        (lambda data: data["config"].update(cutoff="far"), "cutoff=far is no size of a network"),
        (lambda data: data["state_dict"].pop("lin1.weight"), r"does not fit its own sizes: missing \['lin1.weight'\]"),
        (lambda data: data["state_dict"].update(more=torch.zeros(1)), r"missing \[\], unknown \['more'\]"),
        (lambda data: data["state_dict"].update({"lin1.weight": torch.zeros(2, 2)}), r"lin1.weight has shape \(2, 2\)"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(checkpoint, tmp_path, change, message):
    with pytest.raises(BackboneError, match=message):
        load_backbone("schnet", checkpoint=spoilt(checkpoint, tmp_path, change))


def test_sizes_that_a_network_has_not():
    with pytest.raises(BackboneError, match="schnet has no size 'hiden_channels'. Do you mean 'hidden_channels'"):
        new_schnet({"hiden_channels": 8})


def test_a_backbone_without_energies_is_no_prior(spec, monkeypatch):
    backbone = load_backbone(spec)
    monkeypatch.setattr(type(backbone), "has_energy", False)
    with pytest.raises(ConfigError, match="backbone schnet gives no energies and cannot be a prior"):
        BackboneEnergies(backbone)


def test_the_conformance_suite_asks_for_an_unknown_element(spec, monkeypatch):
    """SchNet's embedding ends at 100; one that answers for every element is found."""
    backbone = load_backbone(spec)
    known = backbone.features

    def features(atoms):
        atoms = [atoms] if isinstance(atoms, Atoms) else list(atoms)
        for one in atoms:
            one.numbers = np.minimum(one.numbers, 92)
        return known(atoms)

    monkeypatch.setattr(backbone, "features", features)
    with pytest.raises(BackboneError, match="check 'unknown species' failed: element 118 was accepted"):
        check_backbone(backbone)


@pytest.mark.parametrize(("few", "check"), [({False}, "hops"), ({True}, "hops"), ({True, False}, "hops")])
def test_the_conformance_suite_finds_a_reach_that_is_too_short(spec, monkeypatch, few, check):
    backbone = load_backbone(spec)
    real = type(backbone).hops
    monkeypatch.setattr(type(backbone), "hops", lambda self, energies: real(self, energies) - (energies in few))
    with pytest.raises(BackboneError, match=f"check '{check}' failed: "):
        check_backbone(backbone)


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (lambda positions: positions[:, :1], "rotation"),
        (lambda positions: positions.norm(dim=1)[:, None], "translation"),
        (lambda positions: positions.new_tensor(range(len(positions)))[:, None], "permutation"),
        (lambda positions: positions[:, :1] * 0 + len(positions), "periodic images"),
        (lambda positions: positions[:, :1] * torch.nan, "rotation"),
    ],
)
def test_the_conformance_suite_finds_what_is_wrong(spec, monkeypatch, wrong, check):
    backbone = load_backbone(spec)
    real = type(backbone).forward

    def forward(self, graph, positions, *args, **given):
        found = real(self, graph, positions, *args, **given)
        return replace(found, features=found.features + 1e-2 * wrong(positions))

    monkeypatch.setattr(type(backbone), "forward", forward)
    with pytest.raises(BackboneError, match=f"check '{check}' failed: "):
        check_backbone(backbone)
