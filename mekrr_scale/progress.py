"""How long work says where it is: the pipeline calls this, the command line draws it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Told about stages, steps and remarks."""

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        """A new stage begins; ``total`` steps if that is known, of a unit of its own if that is given."""

    def advance(self, steps: int = 1) -> None:
        """So many steps of the stage are done."""

    def note(self, text: str) -> None:
        """Something worth telling."""


class Silent:
    """Says nothing."""

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        pass

    def advance(self, steps: int = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass
