"""What an extraction did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ase.data import chemical_symbols

from mekrr_scale.errors import ConfigError
from mekrr_scale.figures import Shown, TextTable, counts_by_element
from mekrr_scale.store import FeatureStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = 3  # reasons of rejects that are shown


@dataclass(repr=False)
class ExtractReport(Shown):
    """What an extraction did."""

    written: int = 0  # structures whose features were computed now
    resumed: int = 0  # structures found in shards that were there already
    other_parts: int = 0
    n_rejected: int = 0
    rejected: Counter[str] = field(default_factory=Counter)  # by reason; the first thousand different ones
    warnings: list[str] = field(default_factory=list)
    store: FeatureStore | None = None  # None while other parts are missing

    def headline(self) -> str:
        return (
            f"{self.written} structures written, {self.resumed} were there already, {self.n_rejected} rejected"
            + (f", {self.other_parts} left to other parts" if self.other_parts else "")
            + (f", {len(self.warnings)} warnings" if self.warnings else "")
        )

    def tables(self) -> list[TextTable]:
        """The store, once it is complete, and why structures were rejected."""
        found = []
        if self.store is not None:
            row = (self.store.n_structures, self.store.n_atoms, self.store.n_directions, len(self.store.shards))
            names = ("structures", "atoms", "directions", "shards")
            found.append(TextTable(f"store {self.store.path}", names, (tuple(map(str, row)),), left=()))
        if self.rejected:
            reasons = tuple((str(count), reason) for reason, count in self.rejected.most_common(_NAMED))
            found.append(TextTable("Rejected", ("structures", "reason"), reasons, left=(1,)))
        return found

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it; ``store`` is null while other parts are missing."""
        store = self.store
        return {
            "written": self.written,
            "resumed": self.resumed,
            "other_parts": self.other_parts,
            "rejected": {"structures": self.n_rejected, "reasons": dict(self.rejected)},
            "warnings": list(self.warnings),
            "store": None
            if store is None
            else {
                "path": str(store.path),
                "id": store.id,
                "structures": store.n_structures,
                "atoms": store.n_atoms,
                "directions": store.n_directions,
                "shards": len(store.shards),
            },
        }

    def plot(self, axes: Axes | None = None) -> Axes:
        """The atoms of each element in the store.

        Raises:
            ConfigError: other parts are missing yet.
        """
        if self.store is None:
            raise ConfigError("the store is not complete yet; run the other parts, and finalize it")
        return counts_by_element({chemical_symbols[z]: count for z, count in self.store.species.items()}, axes)
