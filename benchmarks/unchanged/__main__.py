"""``python -m benchmarks.unchanged --code CHECKOUT -o before.json``, then ``--compare before.json after.json``.

Command lines and TOML files stay what they are while Python interfaces change: so everything here goes through
``python -m mekrr_scale``, and nothing imports the package. Both runs say that they are version 0.1.0, since the
version is part of every shard and model.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.unchanged.cases import Case, all_cases
from benchmarks.unchanged.comparison import compare
from benchmarks.unchanged.runner import Workshop, chosen, run_all

ROOT = Path(__file__).parent.parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unchanged", description=__doc__)
    parser.add_argument("--code", type=Path, default=ROOT, help="checkout whose mekrr_scale runs; default: this one")
    parser.add_argument("-o", "--output", type=Path, help="JSON file for what the cases gave")
    parser.add_argument("--only", metavar="REGEX", help="cases whose names match, and those that they need")
    parser.add_argument("--work", type=Path, help="folder to work in, and to keep; it must not exist yet")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of development data")
    parser.add_argument("--jobs", type=int, default=2, help="commands that run at the same time, one thread each")
    parser.add_argument("--list", action="store_true", help="print the cases and their commands")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="two such files")
    asked = parser.parse_args()
    if asked.compare:
        return compare(*(json.loads(path.read_text(encoding="utf-8")) for path in asked.compare))
    cases = chosen(all_cases(), asked.only)
    if asked.list:
        for case in cases:
            print(case.name, *(f"    {command}" for command in case.commands), sep="\n")
        return 0
    if asked.output is None:
        parser.error("name a file for the results with -o")
    if asked.work is not None:
        return _measure(asked.work, asked, cases)
    with tempfile.TemporaryDirectory(prefix="unchanged-") as folder:
        return _measure(Path(folder) / "work", asked, cases)


def _measure(folder: Path, asked: argparse.Namespace, cases: Sequence[Case]) -> int:
    workshop = Workshop.new(folder, asked.code, (ROOT, asked.data))
    found = run_all(workshop, cases, asked.jobs)
    asked.output.write_text(json.dumps(found, indent=1, sort_keys=True), encoding="utf-8")
    failed = [name for name, result in found.items() if "failed" in result]
    for name in failed:
        print(f"{name}: {found[name]['failed']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
