"""Structures in and out: reading, labels and their units, neighbour lists, rejects, and results for structures."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from mekrr_scale.structures.agreement import check_energies as check_energies
    from mekrr_scale.structures.agreement import check_forces as check_forces
    from mekrr_scale.structures.agreement import check_stress as check_stress
    from mekrr_scale.structures.agreement import compared as compared
    from mekrr_scale.structures.agreement import species_counts as species_counts
    from mekrr_scale.structures.batches import in_batches as in_batches
    from mekrr_scale.structures.columns import Kind as Kind
    from mekrr_scale.structures.crystals import conventional_cell as conventional_cell
    from mekrr_scale.structures.crystals import fills_space as fills_space
    from mekrr_scale.structures.crystals import relaxed as relaxed
    from mekrr_scale.structures.crystals import smallest_cell as smallest_cell
    from mekrr_scale.structures.crystals import vacuum as vacuum
    from mekrr_scale.structures.electrons import Electrons as Electrons
    from mekrr_scale.structures.electrons import common_electrons as common_electrons
    from mekrr_scale.structures.electrons import differing_electrons as differing_electrons
    from mekrr_scale.structures.electrons import electrons_info as electrons_info
    from mekrr_scale.structures.electrons import require_electrons as require_electrons
    from mekrr_scale.structures.electrons import require_same_electrons as require_same_electrons
    from mekrr_scale.structures.entry import Entering as Entering
    from mekrr_scale.structures.entry import Entry as Entry
    from mekrr_scale.structures.entry import parse_species_map as parse_species_map
    from mekrr_scale.structures.finite import require_finite as require_finite
    from mekrr_scale.structures.finite import require_finite_atoms as require_finite_atoms
    from mekrr_scale.structures.formats import is_deepmd as is_deepmd
    from mekrr_scale.structures.graphs import Graph as Graph
    from mekrr_scale.structures.graphs import SkinList as SkinList
    from mekrr_scale.structures.graphs import build_graph as build_graph
    from mekrr_scale.structures.graphs import edge_vectors as edge_vectors
    from mekrr_scale.structures.graphs import nearest_edges as nearest_edges
    from mekrr_scale.structures.graphs import require_skin as require_skin
    from mekrr_scale.structures.inputs import Frames as Frames
    from mekrr_scale.structures.inputs import Inputs as Inputs
    from mekrr_scale.structures.inputs import structures_from as structures_from
    from mekrr_scale.structures.labels import LabelKeys as LabelKeys
    from mekrr_scale.structures.labels import Labels as Labels
    from mekrr_scale.structures.labels import bare as bare
    from mekrr_scale.structures.labels import geometry_hash as geometry_hash
    from mekrr_scale.structures.labels import read_labels as read_labels
    from mekrr_scale.structures.labels import slopes as slopes
    from mekrr_scale.structures.labels import structure_hash as structure_hash
    from mekrr_scale.structures.neighbours import check_geometry as check_geometry
    from mekrr_scale.structures.neighbours import volume_of as volume_of
    from mekrr_scale.structures.predictions import PREDICTED_BY as PREDICTED_BY
    from mekrr_scale.structures.predictions import WRITER as WRITER
    from mekrr_scale.structures.predictions import Calculated as Calculated
    from mekrr_scale.structures.predictions import Labelled as Labelled
    from mekrr_scale.structures.predictions import Prediction as Prediction
    from mekrr_scale.structures.predictions import Predictor as Predictor
    from mekrr_scale.structures.predictions import with_predictions as with_predictions
    from mekrr_scale.structures.predictions import without_results as without_results
    from mekrr_scale.structures.reading import count_structures as count_structures
    from mekrr_scale.structures.reading import read_structures as read_structures
    from mekrr_scale.structures.reading import require_file as require_file
    from mekrr_scale.structures.rejects import OVERLAP as OVERLAP
    from mekrr_scale.structures.rejects import Reject as Reject
    from mekrr_scale.structures.rejects import Rejects as Rejects
    from mekrr_scale.structures.rejects import check_overlap as check_overlap
    from mekrr_scale.structures.rejects import check_structure as check_structure
    from mekrr_scale.structures.survey import Survey as Survey
    from mekrr_scale.structures.survey import surveyed as surveyed
    from mekrr_scale.structures.units import ENERGY_UNITS as ENERGY_UNITS
    from mekrr_scale.structures.units import LENGTH_UNITS as LENGTH_UNITS
    from mekrr_scale.structures.units import STRESS_UNITS as STRESS_UNITS
    from mekrr_scale.structures.unreadable import Unreadable as Unreadable
    from mekrr_scale.structures.weights import CONFIG_KEY as CONFIG_KEY
    from mekrr_scale.structures.weights import FrameWeights as FrameWeights
    from mekrr_scale.structures.weights import read_weights as read_weights
    from mekrr_scale.structures.writing import check_written_format as check_written_format
    from mekrr_scale.structures.writing import write_structure as write_structure
    from mekrr_scale.structures.writing import write_structures as write_structures
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "agreement": ["check_energies", "check_forces", "check_stress", "compared", "species_counts"],
            "batches": ["in_batches"],
            "columns": ["Kind"],
            "crystals": ["conventional_cell", "fills_space", "relaxed", "smallest_cell", "vacuum"],
            "electrons": [
                "Electrons",
                "common_electrons",
                "differing_electrons",
                "electrons_info",
                "require_electrons",
                "require_same_electrons",
            ],
            "entry": ["Entering", "Entry", "parse_species_map"],
            "finite": ["require_finite", "require_finite_atoms"],
            "formats": ["is_deepmd"],
            "graphs": ["Graph", "SkinList", "build_graph", "edge_vectors", "nearest_edges", "require_skin"],
            "inputs": ["Frames", "Inputs", "structures_from"],
            "labels": ["LabelKeys", "Labels", "bare", "geometry_hash", "read_labels", "slopes", "structure_hash"],
            "neighbours": ["check_geometry", "volume_of"],
            "predictions": [
                "PREDICTED_BY",
                "WRITER",
                "Calculated",
                "Labelled",
                "Prediction",
                "Predictor",
                "with_predictions",
                "without_results",
            ],
            "reading": ["count_structures", "read_structures", "require_file"],
            "rejects": ["OVERLAP", "Reject", "Rejects", "check_overlap", "check_structure"],
            "survey": ["Survey", "surveyed"],
            "units": ["ENERGY_UNITS", "LENGTH_UNITS", "STRESS_UNITS"],
            "unreadable": ["Unreadable"],
            "weights": ["CONFIG_KEY", "FrameWeights", "read_weights"],
            "writing": ["check_written_format", "write_structure", "write_structures"],
        },
    )
