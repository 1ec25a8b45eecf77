"""Which of ASE's energies a store holds: one for all of its structures, remembered beside the manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mekrr_scale.errors import StoreError
from mekrr_scale.files import is_whole, publish_text, sealed
from mekrr_scale.store.reader import FeatureStore

DEFINITION = "energy.json"


def energy_definition(folder: Path) -> str | None:
    """The name of the energy; None where nothing tells it: one of 0.1.0, or frames whose energies are one anyway.

    Raises:
        StoreError: what tells it is damaged.
    """
    path = folder / DEFINITION
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if is_whole(found) is not False:  # without a seal: as it was written for some time
            return str(found["energy"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise StoreError(
        f"{path} is damaged; it tells which of ASE's energies the store holds: delete it and extract the same frames "
        "into the store again, which computes nothing anew"
    )


def define_energy(folder: Path, name: str | None) -> None:
    """Remember it, where it is known."""
    if name is not None:
        publish_text(folder / DEFINITION, json.dumps(sealed({"energy": name})) + "\n")


def differing_energies(stores: Sequence[FeatureStore]) -> str:
    """What to say of stores that hold different energies; empty where they do not, or nothing tells."""
    named = {str(store.path): energy_definition(store.path) for store in stores}
    known = {path: name for path, name in named.items() if name is not None}
    if len(set(known.values())) < 2:
        return ""
    said = ", ".join(f"{path} {name!r}" for path, name in known.items())
    return (
        f"the stores hold different energies of ASE's ({said}), which are not one definition of the energy; extract "
        "all frames with the same (--energy-key energy, into a new store)"
    )


def common_energy(stores: Sequence[FeatureStore]) -> str | None:
    """That of all stores, as far as it is known.

    Raises:
        StoreError: they hold different ones.
    """
    if said := differing_energies(stores):
        raise StoreError(said)
    return next((name for store in stores if (name := energy_definition(store.path)) is not None), None)
