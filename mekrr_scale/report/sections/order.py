"""All sections, in the order of the page."""

from __future__ import annotations

from mekrr_scale.report.results import Results
from mekrr_scale.report.sections.base import Section
from mekrr_scale.report.sections.calibration import calibration
from mekrr_scale.report.sections.coverage import coverage
from mekrr_scale.report.sections.data import data
from mekrr_scale.report.sections.errors import errors
from mekrr_scale.report.sections.learning import learning
from mekrr_scale.report.sections.physics import physics
from mekrr_scale.report.sections.summary import summary
from mekrr_scale.report.sections.validation import candidates, validation
from mekrr_scale.report.sections.worst import worst

_ALL = (summary, data, validation, errors, calibration, learning, candidates, coverage, worst, physics)


def sections(found: Results) -> list[Section]:
    """Those that there is anything to show in, in order."""
    made = [make(found) for make in _ALL]
    return [section for section in made if section is not None and section.parts]
