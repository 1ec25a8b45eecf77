"""``python -m benchmarks [NAME ...] [--data FOLDER]``: run all benchmarks, or those named.

Those that take hours are run by name alone, one at a time, and take options of their own: ``python -m benchmarks study --help``.

docs/benchmarks.md has the results. A benchmark whose data are not on this machine is refused, the others run.
"""

import argparse
import importlib
import os
import sys

NAMES = (
    "kernel_rows",
    "store_reading",
    "compression",
    "hcoo_accuracy",
    "mlearn_exact",
    "falkon_iterations",
    "scaling",
    "molecular_dynamics",
    "bpa_forces",
    "invariants",
    "criterion",
    "energies_and_forces",
    "tangents_of_some",
    "franken_comparison",
    "matrix_free",
    "prediction",
    "prior_variances",
    "nve",
    "uncertainty",
    "coverage_of_intervals",
    "facets",
    "elasticity",
    "active_learning",
    "ranks",
    "restarts",
    "crossover",
    "falkon_library",
    "sizes",
    "gpu",
    "extraction",
    "large_cells",
    "compiled",
    "messages",
    "subnormals",
    "training_steps",
    "few_rows",
    "engines",
    "lammps_md",
)

LONG = ("study", "against_finetuning")  # hours; with options of their own


def main() -> int:
    if len(sys.argv) > 1 and sys.argv[1] in LONG:
        return _long(sys.argv[1], sys.argv[2:])
    parser = argparse.ArgumentParser("python -m benchmarks", description="docs/benchmarks.md has the results")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"all, or some of {', '.join(NAMES)}; or one of {', '.join(LONG)}"
    )
    parser.add_argument("--data", help="folder of the development data; default: BENCHMARK_DATA, or ../shared/data")
    asked = parser.parse_args()
    for name in asked.names:
        if name in LONG:
            parser.error(f"{name} takes hours: it is run alone, as python -m benchmarks {name}")
        if name not in NAMES:
            parser.error(f"there is no benchmark {name!r}; possible: {', '.join(NAMES)}")
    if asked.data:
        os.environ["BENCHMARK_DATA"] = os.path.abspath(asked.data)
    from benchmarks.data import AbsentDataError

    refused = 0
    for name in asked.names or NAMES:
        print(f"\n## {name}\n", flush=True)
        try:
            importlib.import_module(f"benchmarks.{name}").main()
        except AbsentDataError as error:
            print(f"{name}: {error}", file=sys.stderr)
            refused = 1
    return refused


def _long(name: str, given: list[str]) -> int:
    """One of those with options of its own, beside ``--data``."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--data")
    asked, rest = parser.parse_known_args(given)
    if asked.data:
        os.environ["BENCHMARK_DATA"] = os.path.abspath(asked.data)
    from benchmarks.data import AbsentDataError

    try:
        importlib.import_module(f"benchmarks.{name}").main(rest)
    except AbsentDataError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
