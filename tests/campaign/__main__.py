"""The long campaign: ``python -m tests.campaign [damage|calls|kills]``; ends with code 1 where anything went wrong.

The tables are those of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.campaign import damage, inputs, kills
from tests.campaign.place import copied, made


def main() -> int:
    """Run the parts that are asked for, print the tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=("damage", "calls", "kills", []), help="by default all")
    parser.add_argument("--flips", type=int, default=250, help="times that each kind of file is damaged")
    parser.add_argument("--options", type=int, default=260, help="bad values of options that are drawn")
    parser.add_argument("--calls", type=int, default=10**6, help="bad inputs and options at most")
    parser.add_argument("--kills", type=int, default=15, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    def asks(part: str) -> bool:
        return not given.parts or part in given.parts

    with tempfile.TemporaryDirectory() as folder:
        whole = made(Path(folder) / "whole")
        faults: list[str] = []
        if asks("damage"):
            faults += _damage(whole, given.flips, given.seed)
        if asks("calls"):
            faults += _inputs(whole, given.options, given.calls, given.seed)
        if asks("kills"):
            faults += _kills(whole, given.kills, given.seed)
    for line in faults:
        print(f"FAULT {line}")
    return int(bool(faults))


def _damage(whole: Path, cases: int, seed: int) -> list[str]:
    begin = time.monotonic()
    found, bad = damage.campaign(whole, cases, seed)
    names = ("error", "told", "same", "SILENT", "TRACEBACK", "HANG")
    print("\n| file | damaged | error | passed over, said | nothing changed | silent | traceback | hang |")
    print("|---|---|---|---|---|---|---|---|")
    for kind, counts in found.items():
        print(f"| {kind} | {sum(counts.values())} | {' | '.join(str(counts[name]) for name in names)} |")
    total = sum(sum(counts.values()) for counts in found.values())
    print(f"\n{total} times damaged, {len(bad)} faults, {time.monotonic() - begin:.0f} s", flush=True)
    return bad


def _inputs(whole: Path, options: int, most: int, seed: int) -> list[str]:
    kills.warm(whole)
    begin = time.monotonic()
    place = copied(whole, whole.parent / "inputs")
    inputs.bad_files(place)
    calls = inputs.calls(seed, options)
    random.Random(seed).shuffle(calls)
    calls = calls[:most]
    counts: dict[str, Counter[int]] = {}
    bad = []
    slowest = 0.0
    for call in calls:
        end = inputs.ended(call, place)
        counts.setdefault(call.name, Counter())[end.code] += 1
        slowest = max(slowest, end.seconds)
        bad += [f"{call}: {fault}: {end.output.strip()[-300:]}" for fault in end.faults()]
    codes = sorted({code for found in counts.values() for code in found})
    print(f"\n| command | calls | {' | '.join(f'code {code}' for code in codes)} |")
    print(f"|---|---|{'---|' * len(codes)}")
    for name, found in sorted(counts.items()):
        print(f"| `{name}` | {sum(found.values())} | {' | '.join(str(found[code] or '') for code in codes)} |")
    print(f"\n{len(calls)} calls, {len(bad)} faults, slowest {slowest:.0f} s, {time.monotonic() - begin:.0f} s in all")
    return bad


def _kills(whole: Path, times: int, seed: int) -> list[str]:
    kills.warm(whole)
    begin = time.monotonic()
    ways = tuple(dict.fromkeys(kills.HOW))
    print(f"\n| command | points | killed | {' | '.join(ways)} | faults |")
    print(f"|---|---|---|{'---|' * len(ways)}---|")
    bad, total = [], 0
    for scenario in kills.SCENARIOS:
        found = kills.killed(scenario, whole, times, seed)
        died = [str(found.kills[how]) for how in ways]
        total += found.kills.total()
        bad += found.faults
        row = (f"`{scenario.name}`", str(found.points), str(found.kills.total()), *died, str(len(found.faults)))
        print(f"| {' | '.join(row)} |", flush=True)
    print(f"\n{total} kills, {len(bad)} faults, {time.monotonic() - begin:.0f} s")
    return bad


if __name__ == "__main__":
    sys.exit(main())
