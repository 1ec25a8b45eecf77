"""What backbones refuse, and what they say."""

import importlib.util

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from mekrr_scale.backbones import (
    BackboneSpec,
    Directions,
    available_backbones,
    load_backbone,
    tangents,
)
from mekrr_scale.errors import BackboneError, StructureError
from mekrr_scale.structures import build_graph

pytest.importorskip("chgnet")


def test_tangent_shapes_and_refusals(checkpoint, spec):
    backbone = load_backbone(spec)
    water = molecule("H2O")
    graph = backbone.graph(water)
    moves = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        backbone.tangents(graph, moves), tangents(backbone, graph, Directions.of_displacements(moves)).features
    )
    assert torch.equal(load_backbone("schnet", checkpoint=str(checkpoint)).features(water), backbone.features(water))
    with pytest.raises(BackboneError, match="Do you mean 'layer'"):
        load_backbone("chgnet", layr="conv1")
    none = tangents(backbone, graph, Directions.of_displacements(torch.zeros(0, 3, 3)))
    assert none.features.shape == (0, 3, 16)
    with pytest.raises(BackboneError, match="expected"):
        tangents(backbone, graph, Directions.of_displacements(torch.zeros(2, 4, 3)))
    with pytest.raises(BackboneError, match="one structure"):
        tangents(backbone, backbone.graph([water, water]), Directions.of_displacements(torch.zeros(2, 6, 3)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (BackboneSpec("chgnt"), "Do you mean 'chgnet'"),
        (BackboneSpec("chgnet", layer="conv9"), "no layer 'conv9'"),
        (BackboneSpec("chgnet", version="9.9"), "no weights of version"),
        (BackboneSpec("chgnet", max_neighbors=5), "takes no option max_neighbors"),
        (BackboneSpec("chgnet", checkpoint="x.pt"), "there is no checkpoint"),
        (BackboneSpec("chgnet", version="0.3.0", checkpoint="x.pt"), "not both"),
        (BackboneSpec("schnet"), "needs --checkpoint"),
        (BackboneSpec("sevennet", layer="gate9"), "no layer 'gate9'"),
        (BackboneSpec("sevennet", version="7net-1"), "Do you mean '7net-0'"),
        (BackboneSpec("sevennet", version="7net-0", checkpoint="x.pth"), "not both"),
        (BackboneSpec("dimenet++"), "needs --checkpoint"),
        (BackboneSpec("schnet", checkpoint="/nowhere.pt"), "there is no checkpoint"),
    ],
)
def test_refused_specifications(given, message):
    with pytest.raises(BackboneError, match=message):
        load_backbone(given)


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms(), "no atoms"),
        (Atoms("H", positions=[(np.nan, 0, 0)]), "not finite"),
        (Atoms("H", pbc=True, cell=np.zeros((3, 3)) + [[1, 0, 0], [2, 0, 0], [0, 0, 1]]), "no volume"),
    ],
)
def test_broken_geometries(atoms, message):
    with pytest.raises(StructureError, match=message):
        build_graph(atoms, 3.0)


def test_listing():
    rows = available_backbones()
    assert [name for name, _, _ in rows] == ["chgnet", "sevennet", "schnet", "dimenet++", "mace", "metatomic"]
    assert all(usable for name, usable, _ in rows if name not in ("mace", "metatomic"))


@pytest.mark.skipif(importlib.util.find_spec("mace") is not None, reason="mace-torch is here")
def test_an_absent_package_is_named(tmp_path):
    (tmp_path / "x.model").write_bytes(b"")
    with pytest.raises(BackboneError, match=r"mekrr-scale\[mace\].*without sevenn.*e3nn 0.4"):
        load_backbone("mace", checkpoint=str(tmp_path / "x.model"))
