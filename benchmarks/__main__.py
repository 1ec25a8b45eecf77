"""``python -m benchmarks [NAME ...]``: run all benchmarks, or those named. docs/benchmarks.md has the results."""

import importlib
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

for name in sys.argv[1:] or NAMES:
    if name not in NAMES:
        sys.exit(f"there is no benchmark {name!r}; possible: {', '.join(NAMES)}")
    print(f"\n## {name}\n", flush=True)
    importlib.import_module(f"benchmarks.{name}").main()
