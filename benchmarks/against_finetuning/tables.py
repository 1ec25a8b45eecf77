"""What the points say: the choice of each method, and from where on another is ahead."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.measuring import table
from benchmarks.records import Record

Family = str
# what is shown as a line of its own: a method, or a way of it
FAMILIES: Mapping[Family, str] = {
    "kernel": "kernel, chosen by cross-validation",
    "all learns": "fine-tuning, everything learns",
    "frozen": "fine-tuning, best frozen level",
    "on tuned": "kernel on the tuned network",
    "franken": "franken 0.7.0",
}


def family(record: Record) -> Family:
    if record["kind"] != "finetune":
        return str(record["kind"])
    return "frozen" if record["options"]["frozen"] else "all learns"


def chosen(records: Iterable[Record], name: Family) -> Record | None:
    """The point that a method would take, without a look at the test frames."""
    own = [record for record in records if family(record) == name]
    return min(own, key=lambda record: float(record["chosen_by"])) if own else None


def by_panel(records: Iterable[Record]) -> dict[tuple[str, int], list[Record]]:
    """Points of each set and number of frames."""
    found: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        found.setdefault((record["set"], record["frames"]), []).append(record)
    return dict(sorted(found.items()))


Row = list[object]


def choices(records: Sequence[Record]) -> tuple[list[str], list[Row]]:
    """Errors and CPU seconds of what each method takes, and all seconds that the search for it took."""
    header = [
        "set", "frames", "method", "taken", "energy MAE", "force MAE", "force RMSE", "CPU s", "of all tried",
        "force MAE against the kernel's", "CPU time against the kernel's",
    ]  # fmt: skip
    rows: list[Row] = []
    for (name, frames), panel in by_panel(records).items():
        kernel = chosen(panel, "kernel")
        for one, shown in FAMILIES.items():
            taken = chosen(panel, one)
            if taken is None:
                continue
            errors = taken["errors"]
            tried = sum(record["cpu_seconds"] for record in panel if family(record) == one)
            against = ["-", "-"] if kernel is None else [round(ratio, 2) for ratio in _against(taken, kernel)]
            figures = [round(errors["energy_mae"], 2), round(errors["force_mae"], 1), round(errors["force_rmse"], 1)]
            costs = [round(taken["cpu_seconds"]), round(tried)]
            rows.append([name, frames, shown, taken["label"], *figures, *costs, *against])
    return header, rows


def _against(taken: Record, kernel: Record) -> tuple[float, float]:
    return (
        taken["errors"]["force_mae"] / kernel["errors"]["force_mae"],
        taken["cpu_seconds"] / kernel["cpu_seconds"],
    )


def reached(panel: Sequence[Record], name: Family = "all learns") -> float:
    """CPU seconds after which a method has the force MAE of the kernel's choice; infinite where none of its points has.

    Between two points the logarithm of the error is taken as linear in that of the time.
    """
    kernel = chosen(panel, "kernel")
    if kernel is None:
        return math.nan
    wanted = math.log(kernel["errors"]["force_mae"])
    points = sorted(
        (math.log(record["cpu_seconds"]), math.log(record["errors"]["force_mae"]))
        for record in panel
        if family(record) == name
    )
    before: tuple[float, float] | None = None
    for time, error in points:
        if error <= wanted:
            if before is None:
                return math.exp(time)
            part = (before[1] - wanted) / (before[1] - error)
            return math.exp(before[0] + part * (time - before[0]))
        before = (time, error)
    return math.inf


def crossings(records: Sequence[Record]) -> tuple[list[str], list[Row]]:
    """Where fine-tuning comes to the kernel's error, in CPU time and in frames."""
    header = ["set", "frames", "kernel: CPU s", "fine-tuning has its force MAE after CPU s", "times as long"]
    rows: list[Row] = []
    for (name, frames), panel in by_panel(records).items():
        kernel = chosen(panel, "kernel")
        if kernel is None or chosen(panel, "all learns") is None:
            continue
        after = reached(panel)
        most = max(record["cpu_seconds"] for record in panel if family(record) == "all learns")
        shown = f"not within {most:.0f}" if math.isinf(after) else f"{after:.0f}"
        ratio = "-" if math.isinf(after) else f"{after / kernel['cpu_seconds']:.1f}"
        rows.append([name, frames, round(kernel["cpu_seconds"]), shown, ratio])
    return header, rows


def show(records: Sequence[Record]) -> None:
    """Both tables."""
    if not records:
        print("nothing was run yet")
        return
    titles = {"What each method takes, meV/atom and meV/angstrom": choices, "Where the curves cross": crossings}
    for title, made in titles.items():
        print(f"### {title}\n")
        header, rows = made(records)
        table(header, rows)
