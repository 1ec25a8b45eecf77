"""The page's sections, one a file: each is made of numbers alone."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.report.sections.base import Drawing as Drawing
    from mekrr_scale.report.sections.base import Heading as Heading
    from mekrr_scale.report.sections.base import Lines as Lines
    from mekrr_scale.report.sections.base import Section as Section
    from mekrr_scale.report.sections.order import sections as sections
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__, submod_attrs={"base": ["Drawing", "Heading", "Lines", "Section"], "order": ["sections"]}
    )
