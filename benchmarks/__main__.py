"""``python -m benchmarks [NAME ...] [--data FOLDER]``: run all benchmarks, or those named.

docs/benchmarks.md has the results. A benchmark whose data are not on this machine is refused, the others run.
"""

import argparse
import importlib
import os
import sys

NAMES = (
    "kernel_rows",
    "store_reading",
    "hcoo_accuracy",
    "mlearn_exact",
    "falkon_iterations",
    "scaling",
    "molecular_dynamics",
    "bpa_forces",
    "criterion",
    "energies_and_forces",
    "franken_comparison",
    "matrix_free",
    "prediction",
    "prior_variances",
    "nve",
    "uncertainty",
    "active_learning",
    "ranks",
    "restarts",
    "crossover",
    "falkon_library",
    "sizes",
    "gpu",
)


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks", description="docs/benchmarks.md has the results")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, or some of {', '.join(NAMES)}")
    parser.add_argument("--data", help="folder of the development data; default: BENCHMARK_DATA, or ../shared/data")
    asked = parser.parse_args()
    for name in asked.names:
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


if __name__ == "__main__":
    sys.exit(main())
