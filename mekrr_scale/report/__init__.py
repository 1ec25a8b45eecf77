"""Tables for terminals (rich), figures in files, and the page that shows a model's errors to others."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.report.gathering import results_of as results_of
    from mekrr_scale.report.gathering import results_of_model as results_of_model
    from mekrr_scale.report.making import page_beside as page_beside
    from mekrr_scale.report.making import results_beside as results_beside
    from mekrr_scale.report.making import with_tests as with_tests
    from mekrr_scale.report.making import write_page as write_page
    from mekrr_scale.report.page import html_page as html_page
    from mekrr_scale.report.page import read_page as read_page
    from mekrr_scale.report.page import save_figures as save_figures
    from mekrr_scale.report.page import save_html as save_html
    from mekrr_scale.report.plots import check_plot as check_plot
    from mekrr_scale.report.plots import contribution_plot as contribution_plot
    from mekrr_scale.report.plots import curve_plot as curve_plot
    from mekrr_scale.report.plots import md_plot as md_plot
    from mekrr_scale.report.plots import parity_plot as parity_plot
    from mekrr_scale.report.plots import relax_plot as relax_plot
    from mekrr_scale.report.plots import selection_plot as selection_plot
    from mekrr_scale.report.plots import species_plot as species_plot
    from mekrr_scale.report.plots import training_plot as training_plot
    from mekrr_scale.report.plots import transfer_plot as transfer_plot
    from mekrr_scale.report.plots import write_figure as write_figure
    from mekrr_scale.report.results import Results as Results
    from mekrr_scale.report.statistics import PowerLaw as PowerLaw
    from mekrr_scale.report.statistics import Score as Score
    from mekrr_scale.report.statistics import scored as scored
    from mekrr_scale.report.tables import block_table as block_table
    from mekrr_scale.report.tables import contribution_table as contribution_table
    from mekrr_scale.report.tables import curve_table as curve_table
    from mekrr_scale.report.tables import distill_table as distill_table
    from mekrr_scale.report.tables import dressed as dressed
    from mekrr_scale.report.tables import error_table as error_table
    from mekrr_scale.report.tables import growth_table as growth_table
    from mekrr_scale.report.tables import resource_table as resource_table
    from mekrr_scale.report.tables import species_table as species_table
    from mekrr_scale.report.tables import training_table as training_table
    from mekrr_scale.report.tables import transfer_report as transfer_report
    from mekrr_scale.report.tables import trial_table as trial_table
    from mekrr_scale.report.testing import with_evaluation as with_evaluation
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "gathering": ["results_of", "results_of_model"],
            "making": ["page_beside", "results_beside", "with_tests", "write_page"],
            "page": ["html_page", "read_page", "save_figures", "save_html"],
            "results": ["Results"],
            "statistics": ["PowerLaw", "Score", "scored"],
            "testing": ["with_evaluation"],
            "tables": [
                "block_table",
                "contribution_table",
                "curve_table",
                "distill_table",
                "dressed",
                "error_table",
                "resource_table",
                "species_table",
                "training_table",
                "transfer_report",
                "growth_table",
                "trial_table",
            ],
            "plots": [
                "check_plot",
                "contribution_plot",
                "curve_plot",
                "md_plot",
                "parity_plot",
                "relax_plot",
                "selection_plot",
                "species_plot",
                "training_plot",
                "transfer_plot",
                "write_figure",
            ],
        },
    )
