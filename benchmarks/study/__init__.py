"""Which settings win, by cross-validation and on frames that no fit sees: ``python -m benchmarks study``.

docs/benchmarks.md tells how it is read. Results are lines of ``benchmarks/results/study.jsonl``; a run that was ended goes
on where it was, and nothing in that file is computed again.
"""

from benchmarks.study.command import main

__all__ = ["main"]
