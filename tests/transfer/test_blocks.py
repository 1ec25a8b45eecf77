"""Blocks of a network, and maps of species."""

import pytest

from mekrr_scale.backbones import Rescaled, Scaling, load_backbone
from mekrr_scale.errors import ConfigError
from mekrr_scale.structures import parse_species_map
from mekrr_scale.transfer import BlockPlan, reset_blocks

BLOCKS = ["embedding", "interaction1", "interaction2", "readout"]


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (BlockPlan(), [1, 1, 1, 1]),
        (BlockPlan(decay=0.5), [0.125, 0.25, 0.5, 1]),
        (BlockPlan(train=("readout",)), [0, 0, 0, 1]),
        (BlockPlan(freeze_up_to="interaction1"), [0, 0, 1, 1]),
        (BlockPlan(rates={"embedding": 0, "interactions": 1e-2, "readout": 3}), [0, 1e-2, 1e-2, 3]),
        (BlockPlan(train=("interactions",), decay=0.5), [0, 0.25, 0.5, 0]),
    ],
)
def test_rates_of_blocks(plan, expected):
    assert plan.learning_rates(BLOCKS, 1.0) == dict(zip(BLOCKS, expected, strict=True))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (BlockPlan(train=("readuot",)), "Do you mean 'readout'"),
        (BlockPlan(freeze_up_to="conv1"), "no block 'conv1'"),
        (BlockPlan(rates={"interaction": 1e-3}), "no block 'interaction'"),
        (BlockPlan(freeze_up_to="readout"), "no block is left"),
    ],
)
def test_misspelt_blocks(plan, message):
    with pytest.raises(ConfigError, match=message):
        plan.learning_rates(BLOCKS, 1.0)


def test_species_maps():
    assert parse_species_map("Si:Ge, O:S") == {14: 32, 8: 16}
    assert parse_species_map(None) == {}
    for text, message in (
        ("Si", "no element"),
        ("Si:Gee", "'Gee'"),
        ("Si:Ge,C:Ge", "Ge twice"),
        ("C:O,C:N", "C twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_species_map(text)


def test_a_network_is_made_once_to_know_what_learns(spec, monkeypatch):
    """Making SevenNet's takes seconds; whatever stands around it has the same weights."""
    made = []
    schnet = load_backbone(spec)
    fresh = schnet.fresh
    monkeypatch.setattr(schnet, "fresh", lambda: made.append(1) or fresh())
    around = Rescaled(schnet, Scaling())
    reset_blocks(schnet, [], 0)
    assert not made
    inner, outer = schnet.parameters(), around.parameters()
    assert {block: list(named) for block, named in inner.items()} == {
        block: list(named) for block, named in outer.items()
    }
    assert len(made) == 1
