"""What a backbone imports is known by its name, whether it is installed or not."""

import pytest

from mekrr_scale.backbones import packages_of
from mekrr_scale.errors import BackboneError


def test_packages_of_backbones_are_known_by_name():
    assert packages_of("chgnet") == ("chgnet",)
    with pytest.raises(BackboneError, match="Do you mean 'chgnet'"):
        packages_of("chgnt")
    assert all(packages_of(name) for name in ("schnet", "mace"))
