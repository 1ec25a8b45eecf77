"""A table of what two runs agree and differ in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

TOLD = 8  # differences of a case that are listed


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> int:
    """Print a Markdown table; 1 where anything differs, failed or is missing."""
    print("| case | compared | |\n|---|---|---|")
    counts = {"same": 0, "differs": 0, "skipped": 0}
    for name in [*before, *(name for name in after if name not in before)]:
        pair = [side.get(name) for side in (before, after)]
        if None in pair:
            print(f"| {name} | | **only {'after' if pair[0] is None else 'before'}** |")
            counts["differs"] += 1
        elif any("skipped" in side or "failed" in side for side in pair):
            skipped = all("skipped" in side for side in pair)
            told = "; ".join(f"{key}: {side[key]}" for side in pair for key in ("skipped", "failed") if key in side)
            print(f"| {name} | | {'skipped' if skipped else '**differs**'} ({told}) |".replace("\n", " "))
            counts["skipped" if skipped else "differs"] += 1
        else:
            found = list(differences(pair[0], pair[1]))
            parts = sorted({part for side in pair for part in _parts(side)})
            print(f"| {name} | {', '.join(parts)} | {'**differs**' if found else 'same'} |")
            for line in found[:TOLD]:
                print(f"| | {line} | |")
            if len(found) > TOLD:
                print(f"| | and {len(found) - TOLD} more differences | |")
            counts["differs" if found else "same"] += 1
    print(f"\n{len({*before, *after})} cases: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    return int(counts["differs"] > 0)


def differences(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """Where two nested values differ, and by how much."""
    if isinstance(before, dict) and isinstance(after, dict):
        if {"hash", "values"} <= before.keys() & after.keys():
            if before["hash"] != after["hash"]:
                yield f"{place}: {_distance(before['values'], after['values'])}"
            return
        for key in [*before, *(key for key in after if key not in before)]:
            inside = f"{place} {key}".strip()
            if key not in before or key not in after:
                yield f"{inside}: only {'after' if key in after else 'before'}"
            else:
                yield from differences(before[key], after[key], inside)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for i, pair in enumerate(zip(before, after, strict=True)):
            yield from differences(*pair, f"{place}[{i}]")
    elif repr(before) != repr(after):  # so that NaN is NaN
        yield f"{place}: {_short(before)} -> {_short(after)}"


def _parts(result: Mapping[str, Any]) -> Iterator[str]:
    """What of a case was compared, in few words."""
    for file, value in result.items():
        if file == "says":
            if value:
                yield "what it prints"
        elif "coefficients" in value:
            yield "model (coefficients, landmarks, baseline, posterior, header)"
        elif "shards" in value:
            yield "shards, ids" if "id" in value else "arrays of shards"
        elif "weights" in value:
            yield "weights"
        else:
            yield file.rpartition("/")[2]


def _distance(before: list[float], after: list[float]) -> str:
    if len(before) != len(after):
        return f"{len(before)} -> {len(after)} numbers"
    a, b = np.array(before), np.array(after)
    with np.errstate(all="ignore"):
        return f"largest difference {np.nanmax(np.abs(a - b)):.3g} of {np.nanmax(np.abs(a)):.3g}"


def _short(value: Any) -> str:
    text = repr(value).replace("|", "/")
    return text if len(text) <= 90 else f"{text[:87]}..."
