"""Charge and spin of structures: what files say of them, and that networks which do not see them are not asked to.

Two structures of one geometry and other charges have one set of features: a model of both would be of neither. Files
say it in ``info`` (ASE's files, MACE's, those of OMol25): ``charge`` or ``total_charge`` (in e, 0 where nothing is
said), and ``spin``, ``total_spin``, ``multiplicity`` or ``spin_multiplicity``, which are compared as they stand: some
mean 2S + 1, others the number of unpaired electrons. What is no single number (a flag, a word) says nothing. Charges
and moments of single atoms (``initial_charges``, ``initial_magmoms``) are starting points of codes, and do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms

from mekrr_scale.errors import ModelError, StructureError
from mekrr_scale.files import JSON, Document
from mekrr_scale.structures.columns import numbers

CHARGE = ("charge", "total_charge")
SPIN = ("spin", "total_spin", "multiplicity", "spin_multiplicity")
_SAME = 1e-6  # e


@dataclass
class Electrons:
    """Charges and spins of all frames that were looked at."""

    charges: dict[float, int] = field(default_factory=dict)  # e, and how many frames have it
    spins: dict[str, set[float]] = field(default_factory=dict)  # of each composition, where they are said

    def look(self, atoms: Atoms) -> None:
        """Count a frame."""
        charge = said(atoms, CHARGE) or 0.0
        self.charges[charge] = self.charges.get(charge, 0) + 1
        spin = said(atoms, SPIN)
        if spin is not None:
            self.spins.setdefault(atoms.get_chemical_formula(), set()).add(spin)

    def document(self, takes: frozenset[str], ignored: bool = False) -> dict[str, JSON]:
        """What a store of the frames says of them; empty where they are neutral and no spin is said.

        Args:
            takes: what the backbone sees besides the geometry, of ``charge`` and ``spin``.
            ignored: frames may differ.

        Raises:
            StructureError: charges differ, or spins of one composition, which the backbone does not see.
        """
        if ignored:
            return {"ignored": True}
        charged = "charge" not in takes and any(self.charges)
        spun = "spin" not in takes and bool(self.spins)
        if charged and len(self.charges) > 1:
            counts = ", ".join(f"{charge:g} ({count})" for charge, count in sorted(self.charges.items()))
            raise StructureError(
                f"frames have charges (frames of each): {counts}; features do not know a charge, so that one model "
                "cannot hold them all: give frames of one charge, and extract each charge into a store of its own; "
                "extract and tune take frames as they are with --ignore-charge"
            )
        mixed = {formula: spins for formula, spins in self.spins.items() if len(spins) > 1}
        if spun and mixed:
            formula, spins = next(iter(mixed.items()))
            raise StructureError(
                f"frames of {formula} have spins {', '.join(f'{spin:g}' for spin in sorted(spins))}; features do not "
                "know a spin, so that one model cannot hold them all: give frames of one spin, and extract each state "
                "into a store of its own; extract and tune take frames as they are with --ignore-charge"
            )
        found: dict[str, JSON] = {"charge": next(iter(self.charges))} if charged else {}
        every = set().union(*self.spins.values())
        return found | ({"spin": every.pop()} if spun and len(every) == 1 else {})


def said(atoms: Atoms, names: tuple[str, ...]) -> float | None:
    """The number under the first of some names of ``info`` that holds one."""
    for name in names:
        if name not in atoms.info:
            continue
        try:
            found = np.asarray(numbers(atoms.info[name], name)).ravel()
        except StructureError:
            continue
        if len(found) == 1 and np.isfinite(found).all():
            return float(found[0])
    return None


def electrons_info(given: Atoms | Document | None) -> dict[str, Any]:
    """``info`` of a structure that is made of another one, or for a model by what hands over no charge and spin.

    Args:
        given: the other structure, or what the model was fitted to, see ``Electrons.document``.

    >>> electrons_info(Atoms("H", info={"charge": 1, "name": "proton"})), electrons_info({"charge": -1.0})
    ({'charge': 1}, {'charge': -1.0})
    """
    known = given.info if isinstance(given, Atoms) else given or {}
    return {name: known[name] for name in (*CHARGE, *SPIN) if name in known}


def require_electrons(known: Document, atoms: Atoms, takes: frozenset[str]) -> None:
    """Refuse a structure of another charge or spin than what a model was fitted to.

    Args:
        known: see ``Electrons.document``.
        takes: what the backbone sees itself.

    Raises:
        ModelError: says which was expected.
    """
    if known.get("ignored"):
        return
    charge, spin = said(atoms, CHARGE) or 0.0, said(atoms, SPIN)
    expected = float(str(known.get("charge", 0.0)))
    if "charge" not in takes and abs(charge - expected) > _SAME:
        raise _refused("charge", charge, expected)
    if "spin" not in takes and spin is not None and "spin" in known:
        expected = float(str(known["spin"]))
        if abs(spin - expected) > _SAME:
            raise _refused("spin", spin, expected)


def differing_electrons(known: Document, others: Document) -> str:
    """What differs between two sets of structures, ``charge`` or ``spin``; empty where nothing does.

    Spins differ where both sets have one. Sets whose frames were taken as they are differ from none.
    """
    if known.get("ignored") or others.get("ignored"):
        return ""
    for name in ("charge", "spin"):
        mine, theirs = (float(str(given.get(name, 0.0))) for given in (known, others))
        if abs(mine - theirs) > _SAME and (name == "charge" or (name in known and name in others)):
            return name
    return ""


def common_electrons(documents: Sequence[Document]) -> dict[str, JSON]:
    """What sets that do not differ say together."""
    if any(each.get("ignored") for each in documents):
        return {"ignored": True}
    first, *others = documents
    return {name: value for name, value in first.items() if all(each.get(name) == value for each in others)}


def require_same_electrons(known: Document, others: Document, what: str) -> None:
    """Refuse to compare a model with structures that differ from its own.

    Raises:
        ModelError: says which were expected.
    """
    name = differing_electrons(known, others)
    if name:
        theirs, mine = (float(str(given.get(name, 0.0))) for given in (others, known))
        raise ModelError(
            f"{what} holds structures of {name} {theirs:g}, the model was fitted to {name} {mine:g}, which its "
            "features do not know: evaluate structures like those of its training"
        )


def _refused(what: str, found: float, expected: float) -> ModelError:
    names = CHARGE if what == "charge" else SPIN
    remedy = f"take the key off the structure (info: {', '.join(names)})"
    if what == "charge" and expected:  # which is 0 without a key
        remedy = f"set info charge={expected:g} of the structure"
    return ModelError(
        f"the structure has {what} {found:g}, the model was fitted to {what} {expected:g} and does not see it: fit a "
        f"model to structures of that {what}; or, if it is to be used all the same, {remedy}"
    )
