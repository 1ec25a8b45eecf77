"""What the lines say: ranks by cross-validation and on held-out frames, how far the two agree, and where they do not.

Scores are geometric means of the energy's and the forces' RMSE relative to the base setting of the same set and size: no
weight between eV/atom and eV/angstrom has to be chosen, and sets of different difficulty can be put together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median
from typing import Literal

from scipy.stats import spearmanr

from benchmarks.records import Record

Side = Literal["cv", "test"]
Quantity = Literal["energy", "force", "both"]
QUANTITIES: tuple[Quantity, ...] = ("energy", "force", "both")


@dataclass(frozen=True)
class Group:
    """The settings of one set and size, by name; the base is among them."""

    name: str
    size: int
    lines: Mapping[str, Record]

    def relative(self, name: str, side: Side, quantity: Quantity = "both") -> float:
        """Error of a setting against the base's; below 1 it is better."""
        if quantity == "both":
            return geometric_mean([self.relative(name, side, one) for one in ("energy", "force")])
        own, base = (self.lines[which][side][quantity] for which in (name, "base"))
        return float(own / base)

    def ranked(self, side: Side, quantity: Quantity = "both") -> list[str]:
        """Best first."""
        return sorted(self.lines, key=lambda name: self.relative(name, side, quantity))

    def agreement(self, quantity: Quantity) -> float:
        """Spearman's rank correlation of cross-validated and held-out errors."""
        if len(self.lines) < 3:
            return math.nan
        sides = ([self.relative(name, side, quantity) for name in self.lines] for side in ("cv", "test"))  # type: ignore[arg-type]
        return float(spearmanr(*sides).statistic)

    def regret(self, quantity: Quantity = "both") -> float:
        """Held-out error of what cross-validation takes, against the best held-out error of all."""
        taken, best = self.ranked("cv", quantity)[0], self.ranked("test", quantity)[0]
        return self.relative(taken, "test", quantity) / self.relative(best, "test", quantity)

    def misled(self, quantity: Quantity = "both") -> dict[str, float]:
        """Held-out against cross-validated error, over that ratio's median: above 1 cross-validation flatters."""
        ratios = {
            name: self.relative(name, "test", quantity) / self.relative(name, "cv", quantity) for name in self.lines
        }
        middle = median(ratios.values())
        return {name: ratio / middle for name, ratio in ratios.items()}


def groups(records: Iterable[Record]) -> list[Group]:
    """By set and size, those that have a base to compare with."""
    found: dict[tuple[str, int], dict[str, Record]] = {}
    for record in records:
        found.setdefault((record["set"], record["size"]), {})[record["name"]] = record
    return [
        Group(name, size, lines)
        for (name, size), lines in sorted(found.items(), key=lambda item: (item[0][1], item[0][0]))
        if "base" in lines
    ]


Row = list[object]


def winners(found: Sequence[Group]) -> tuple[list[str], list[Row]]:
    """Per set and size: base, CV's choice and the best, and how far cross-validation is to be trusted."""
    header = [
        "set", "frames", "settings", "base: energy, force", "taken by CV", "energy, force", "best held-out",
        "energy, force", "rank correlation: energy", "force", "both", "taken / best",
    ]  # fmt: skip
    rows = []
    for group in found:
        taken, best = group.ranked("cv")[0], group.ranked("test")[0]
        agreement = [round(group.agreement(quantity), 2) for quantity in QUANTITIES]
        errors = [_errors(group.lines[name]["test"]) for name in ("base", taken, best)]
        rows.append(
            [
                group.name, group.size, len(group.lines), errors[0], taken, errors[1], best, errors[2], *agreement,
                round(group.regret(), 2),
            ]
        )  # fmt: skip
    return header, rows


def _errors(side: Mapping[str, float]) -> str:
    return f"{side['energy']:.2f}, {side['force']:.1f}"


def effects(found: Sequence[Group]) -> tuple[list[str], list[Row]]:
    """Per setting, over the sets that have it: errors against the base, best first; and the CPU time of its fit."""
    header = [
        "setting", "sets", "held-out: energy", "force", "both", "worst set", "CV: both", "taken by CV in",
        "extraction", "fit",
    ]  # fmt: skip
    names = {name for group in found for name in group.lines}
    rows: list[tuple[float, Row]] = []
    for name in names:
        having = [group for group in found if name in group.lines]
        held = [geometric_mean([group.relative(name, "test", q) for group in having]) for q in QUANTITIES]
        cv = geometric_mean([group.relative(name, "cv") for group in having])
        worst = max(having, key=lambda group: group.relative(name, "test"))
        shown = f"{worst.name} {worst.size}: {worst.relative(name, 'test'):.2f}"
        taken = sum(group.ranked("cv")[0] == name for group in having)
        costs = [_cost(having, name, part) for part in ("extraction", "fit")]
        row: Row = [name, len(having), *(round(value, 3) for value in held), shown, round(cv, 3), taken, *costs]
        rows.append((held[2], row))
    return header, [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def _cost(having: Sequence[Group], name: str, part: str) -> float:
    """CPU seconds against the base's."""
    ratios = [group.lines[name]["cpu"][part] / group.lines["base"]["cpu"][part] for group in having]
    return round(geometric_mean([ratio for ratio in ratios if ratio > 0] or [math.nan]), 2)


def misleading(found: Sequence[Group], above: float = 1.1) -> tuple[list[str], list[Row]]:
    """Settings that cross-validation flatters by more than a tenth, and those that it paints too dark."""
    header = ["set", "frames", "setting", "flattered by", "CV against base", "held-out against base"]
    rows: list[tuple[float, Row]] = []
    for group in found:
        for name, ratio in group.misled().items():
            if not 1 / above <= ratio <= above:
                sides = [round(group.relative(name, side), 3) for side in ("cv", "test")]  # type: ignore[arg-type]
                rows.append((ratio, [group.name, group.size, name, round(ratio, 2), *sides]))
    return header, [row for _, row in sorted(rows, key=lambda pair: -abs(math.log(pair[0])))]


def ends(found: Sequence[Group], lowest: float = 1e-10, highest: float = 1e-2) -> tuple[list[str], list[Row]]:
    """Which ridges were taken, over all settings of a set and size: whether a default grid holds them."""
    header = ["set", "frames", "smallest ridge", "median", "largest", f"below {lowest:g}", f"above {highest:g}"]

    def row(group: Group) -> Row:
        taken = sorted(line["chosen"]["ridge"] for line in group.lines.values())
        beyond: list[Callable[[float], bool]] = [lambda r: r < 0.99 * lowest, lambda r: r > 1.01 * highest]
        counted = [sum(map(test, taken)) for test in beyond]
        return [group.name, group.size, *(f"{r:.1e}" for r in (taken[0], median(taken), taken[-1])), *counted]

    return header, [row(group) for group in found]
