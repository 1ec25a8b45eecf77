"""What all checks found: a table, a page of figures, and the sentences on what failed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mekrr_scale.checks.measured import Finding, Panel, Quantity
from mekrr_scale.figures import GREY, SERIES, Line, Shown, TextTable, grid_axes, line_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3  # panels side by side


@dataclass(frozen=True)
class LinePanel:
    """Axes with their lines by name."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Line]


@dataclass(frozen=True, repr=False)
class CheckReport(Shown):
    """Findings in the order of structures and checks."""

    findings: tuple[Finding, ...]

    @property
    def failed(self) -> list[str]:
        """Each failure as a line: structure, check, what is wrong."""
        return [f"{f.structure}, {f.check}: {text}" for f in self.findings for text in f.failures]

    def headline(self) -> str:
        verdicts = [finding.verdict for finding in self.findings]
        return ", ".join(f"{verdicts.count(name)} {name}" for name in ("passed", "failed", "skipped"))

    def tables(self) -> list[TextTable]:
        """Every quantity beside those of the backbone and the reference."""
        rows: list[tuple[str, ...]] = []
        for finding in self.findings:
            begin = (f"{finding.structure}: {finding.check}", finding.verdict)
            if finding.model is None:
                rows.append((*begin, finding.skipped or finding.failures[0], "", "", ""))
                continue
            beside = {} if finding.backbone is None else finding.backbone.quantities
            for name, quantity in finding.model.quantities.items():
                values = (_number(known.get(name)) for known in (finding.model.quantities, beside, finding.reference))
                rows.append((*begin, f"{name} ({quantity.unit})" if quantity.unit else name, *values))
                begin = ("", "")
        columns = ("check", "verdict", "quantity", "model", "backbone", "reference")
        return [TextTable("Checks", columns, tuple(rows), left=(0, 1, 2))]

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it."""
        return {
            "schema": "mekrr-scale checks 1.0",
            "failed": self.failed,
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def plot(self) -> list[Axes]:
        """A panel for each check that has curves: the model's, and the backbone's behind them."""
        drawn = list(self.panels())
        axes = grid_axes(max(len(drawn), 1), _COLUMNS)
        for each, panel in zip(drawn, axes, strict=False):
            line_axes(each.lines, each.x, each.y, panel)
            panel.set_title(each.title, fontsize=9)
        return axes

    def panels(self) -> Iterator[LinePanel]:
        """What ``plot`` draws."""
        for finding in self.findings:
            own, other = (None if each is None else each.panel for each in (finding.model, finding.backbone))
            if own is not None:
                title = f"{finding.structure}: {finding.check}{', failed' if finding.failures else ''}"
                yield LinePanel(title, own.x, own.y, _lines(own, other))


def _lines(own: Panel, other: Panel | None) -> Mapping[str, Line]:
    lines = {}
    behind = {} if other is None else other.curves
    for place, name in enumerate(own.curves):
        colour = SERIES[place % len(SERIES)]
        if name in behind:
            curve = behind[name]
            shade = GREY if len(own.curves) == 1 else colour
            lines[f"{name} backbone".strip()] = Line(curve.x, curve.y, shade, dashed=True, marked=curve.marked)
        curve = own.curves[name]
        lines[f"{name} model".strip()] = Line(curve.x, curve.y, colour, marked=curve.marked)
    return lines


def _number(quantity: Quantity | None) -> str:
    if quantity is None:
        return ""
    return f"{quantity.value:.4g}" if math.isfinite(quantity.value) else "-"
