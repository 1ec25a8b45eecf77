"""Plots and tables of plain arrays and strings, which reports show in terminals, notebooks and files."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.figures.against import against_axes as against_axes
    from mekrr_scale.figures.against import binned as binned
    from mekrr_scale.figures.against import reliability_axes as reliability_axes
    from mekrr_scale.figures.courses import Track as Track
    from mekrr_scale.figures.courses import course_axes as course_axes
    from mekrr_scale.figures.curves import TrainingCurve as TrainingCurve
    from mekrr_scale.figures.curves import band_axes as band_axes
    from mekrr_scale.figures.curves import choice_axes as choice_axes
    from mekrr_scale.figures.curves import power_axes as power_axes
    from mekrr_scale.figures.curves import projection_axes as projection_axes
    from mekrr_scale.figures.curves import training_axes as training_axes
    from mekrr_scale.figures.density import density_axes as density_axes
    from mekrr_scale.figures.density import errors_axes as errors_axes
    from mekrr_scale.figures.density import histogram_axes as histogram_axes
    from mekrr_scale.figures.density import spread_axes as spread_axes
    from mekrr_scale.figures.heat import heat_axes as heat_axes
    from mekrr_scale.figures.lines import Line as Line
    from mekrr_scale.figures.lines import grid_axes as grid_axes
    from mekrr_scale.figures.lines import line_axes as line_axes
    from mekrr_scale.figures.maps import choice_map_axes as choice_map_axes
    from mekrr_scale.figures.maps import component_labels as component_labels
    from mekrr_scale.figures.maps import error_map_axes as error_map_axes
    from mekrr_scale.figures.maps import kind_map_axes as kind_map_axes
    from mekrr_scale.figures.maps import species_map_axes as species_map_axes
    from mekrr_scale.figures.maps import structure_axes as structure_axes
    from mekrr_scale.figures.parity import Cloud as Cloud
    from mekrr_scale.figures.parity import centred as centred
    from mekrr_scale.figures.parity import parity_axes as parity_axes
    from mekrr_scale.figures.species import boxes_by_element as boxes_by_element
    from mekrr_scale.figures.species import counts_by_element as counts_by_element
    from mekrr_scale.figures.species import error_bars as error_bars
    from mekrr_scale.figures.species import errors_by_element as errors_by_element
    from mekrr_scale.figures.style import BLUE as BLUE
    from mekrr_scale.figures.style import GREY as GREY
    from mekrr_scale.figures.style import ORANGE as ORANGE
    from mekrr_scale.figures.style import SERIES as SERIES
    from mekrr_scale.figures.style import drawn_plainly as drawn_plainly
    from mekrr_scale.figures.style import inline_svg as inline_svg
    from mekrr_scale.figures.style import new_axes as new_axes
    from mekrr_scale.figures.tables import Shown as Shown
    from mekrr_scale.figures.tables import TextTable as TextTable
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "tables": ["Shown", "TextTable"],
            "parity": ["Cloud", "centred", "parity_axes"],
            "species": ["boxes_by_element", "counts_by_element", "error_bars", "errors_by_element"],
            "against": ["against_axes", "binned", "reliability_axes"],
            "courses": ["Track", "course_axes"],
            "curves": ["TrainingCurve", "band_axes", "choice_axes", "power_axes", "projection_axes", "training_axes"],
            "density": ["density_axes", "errors_axes", "histogram_axes", "spread_axes"],
            "maps": [
                "choice_map_axes",
                "component_labels",
                "error_map_axes",
                "kind_map_axes",
                "species_map_axes",
                "structure_axes",
            ],
            "heat": ["heat_axes"],
            "lines": ["Line", "grid_axes", "line_axes"],
            "style": ["BLUE", "GREY", "ORANGE", "SERIES", "drawn_plainly", "inline_svg", "new_axes"],
        },
    )
