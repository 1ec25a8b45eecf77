"""How the errors came about, and among what was chosen."""

from __future__ import annotations

from mekrr_scale.report.results import Results
from mekrr_scale.report.sections.base import Lines, Part, Section


def validation(found: Results) -> Section | None:
    """Folds and why, and what was done with the data."""
    at = found.folds
    if at is None:
        return None
    sizes = ""
    if at.sizes:
        least, most = min(at.sizes), max(at.sizes)
        sizes = f" of {least} structures" if least == most else f" of {least} to {most} structures"
    parts: list[Part] = [
        f"{at.count}-fold cross-validation: each of the {at.count} folds{sizes} is predicted by a model of the others, "
        "references of the elements included. The same errors choose among the candidates, so that those of a test "
        "that took no part in the fit tell more."
    ]
    if at.remarks:
        parts += ["The folds:", Lines(at.remarks)]
    others = [line for line in found.remarks if line.removeprefix("folds: ") not in at.remarks]
    if others:
        parts += ["What else the fit says:", Lines(others)]
    return Section("validation", "Validation", parts)


def candidates(found: Results) -> Section | None:
    """Every candidate with its errors; * marks the one that was saved."""
    if not found.candidates:
        return None
    return Section("candidates", "Candidates", ["The model that was saved is marked with *.", *found.candidates])
