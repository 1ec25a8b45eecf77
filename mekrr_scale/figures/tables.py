"""Tables of plain strings: text for terminals, HTML for notebooks; ``mekrr_scale.report`` draws them with rich."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import final


@dataclass(frozen=True)
class TextTable:
    """A table.

    >>> print(TextTable("Errors", ("", "MAE"), (("energy", "1.2"), ("force", "30")), "meV").text())
    Errors
            MAE
    energy  1.2
    force    30
    meV

    Args:
        left: columns that are aligned to the left; the others hold numbers.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    left: tuple[int, ...] = (0,)

    def text(self) -> str:
        """Title, aligned columns and caption."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[k]) for line in lines) for k in range(len(self.columns))]
        shown = []
        for line in lines:
            cells = [
                cell.ljust(width) if k in self.left else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            shown.append("  ".join(cells).rstrip())
        return "\n".join([line for line in (self.title, *shown, self.caption) if line])

    def html(self) -> str:
        """The same as a table of a notebook."""

        def row(cells: Sequence[str], tag: str) -> str:
            sides = ["left" if k in self.left else "right" for k in range(len(cells))]
            inner = (
                f'<{tag} style="text-align:{side}">{escape(cell)}</{tag}>'
                for cell, side in zip(cells, sides, strict=True)
            )
            return f"<tr>{''.join(inner)}</tr>"

        head = f"<thead>{row(self.columns, 'th')}</thead>"
        body = f"<tbody>{''.join(row(cells, 'td') for cells in self.rows)}</tbody>"
        note = f"<div><small>{escape(self.caption)}</small></div>" if self.caption else ""
        return f"<div><b>{escape(self.title)}</b></div><table>{head}{body}</table>{note}"


class Shown(ABC):
    """A report that shows itself: a few lines in a terminal, tables in a notebook."""

    @abstractmethod
    def headline(self) -> str:
        """What it is, in one line."""

    @abstractmethod
    def tables(self) -> Sequence[TextTable]:
        """What it has found; the first one is shown in terminals, too."""

    @final
    def __repr__(self) -> str:
        return "\n".join([self.headline(), *(table.text() for table in self.tables()[:1])])

    @final
    def _repr_html_(self) -> str:
        return "".join([f"<div>{escape(self.headline())}</div>", *(table.html() for table in self.tables())])
