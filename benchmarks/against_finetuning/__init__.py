"""This package, full fine-tuning of the same network, and franken: error against CPU time on few frames.

``python -m benchmarks against_finetuning``. Results are lines of ``benchmarks/results/against_finetuning.jsonl``; a run that
was ended goes on where it was. franken 0.7.0 runs in the Python that FRANKEN_PYTHON names, or in this one.
"""

from benchmarks.against_finetuning.command import main

__all__ = ["main"]
