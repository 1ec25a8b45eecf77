"""Frozen containers of features and landmarks; draws from content; small linear algebra; devices; pages of memory."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

from mekrr_scale.deprecated import with_old_names

if TYPE_CHECKING:
    from mekrr_scale.arrays.batches import ISOLATED as ISOLATED
    from mekrr_scale.arrays.batches import MADE as MADE
    from mekrr_scale.arrays.batches import N_ELEMENTS as N_ELEMENTS
    from mekrr_scale.arrays.batches import DirectionLabels as DirectionLabels
    from mekrr_scale.arrays.batches import FeatureBatch as FeatureBatch
    from mekrr_scale.arrays.batches import SpeciesRun as SpeciesRun
    from mekrr_scale.arrays.batches import Tangents as Tangents
    from mekrr_scale.arrays.batches import alone as alone
    from mekrr_scale.arrays.batches import bounds as bounds
    from mekrr_scale.arrays.batches import config_hash as config_hash
    from mekrr_scale.arrays.batches import species_runs as species_runs
    from mekrr_scale.arrays.compression import BasisKind as BasisKind
    from mekrr_scale.arrays.compression import Compression as Compression
    from mekrr_scale.arrays.compression import Moments as Moments
    from mekrr_scale.arrays.devices import usable_device as usable_device
    from mekrr_scale.arrays.draws import draw as draw
    from mekrr_scale.arrays.draws import uniform as uniform
    from mekrr_scale.arrays.heap import anonymous_bytes as anonymous_bytes
    from mekrr_scale.arrays.heap import free_kept as free_kept
    from mekrr_scale.arrays.heap import keep_memory as keep_memory
    from mekrr_scale.arrays.heap import kept_memory as kept_memory
    from mekrr_scale.arrays.kinds import DERIVATIVES as DERIVATIVES
    from mekrr_scale.arrays.kinds import KINDS as KINDS
    from mekrr_scale.arrays.kinds import ByKind as ByKind
    from mekrr_scale.arrays.kinds import KindInfo as KindInfo
    from mekrr_scale.arrays.kinds import RowKind as RowKind
    from mekrr_scale.arrays.kinds import Unit as Unit
    from mekrr_scale.arrays.kinds import error_text as error_text
    from mekrr_scale.arrays.kinds import kind_named as kind_named
    from mekrr_scale.arrays.landmarks import Landmarks as Landmarks
    from mekrr_scale.arrays.landmarks import content_hash as content_hash
    from mekrr_scale.arrays.landmarks import fingerprint as fingerprint
    from mekrr_scale.arrays.linear import beyond_composition as beyond_composition
    from mekrr_scale.arrays.linear import eigh as eigh
    from mekrr_scale.arrays.linear import minimum_norm as minimum_norm
    from mekrr_scale.arrays.linear import rank_correlation as rank_correlation
    from mekrr_scale.arrays.nearness import leaders as leaders
    from mekrr_scale.arrays.planes import Plane as Plane
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "batches": [
                "DirectionLabels",
                "FeatureBatch",
                "ISOLATED",
                "MADE",
                "N_ELEMENTS",
                "SpeciesRun",
                "Tangents",
                "alone",
                "bounds",
                "config_hash",
                "species_runs",
            ],
            "compression": ["BasisKind", "Compression", "Moments"],
            "devices": ["usable_device"],
            "draws": ["draw", "uniform"],
            "heap": ["anonymous_bytes", "free_kept", "keep_memory", "kept_memory"],
            "kinds": ["DERIVATIVES", "KINDS", "ByKind", "KindInfo", "RowKind", "Unit", "error_text", "kind_named"],
            "landmarks": ["Landmarks", "content_hash", "fingerprint"],
            "linear": ["beyond_composition", "eigh", "minimum_norm", "rank_correlation"],
            "nearness": ["leaders"],
            "planes": ["Plane"],
        },
    )
    __getattr__ = with_old_names(__name__, __getattr__)
