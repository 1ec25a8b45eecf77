"""Features on disk: immutable HDF5 shards, a sidecar for each, and one manifest for all."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

from mekrr_scale.deprecated import with_old_names

if TYPE_CHECKING:
    from mekrr_scale.store.axes import axes_asked_for as axes_asked_for
    from mekrr_scale.store.axes import publish_axes as publish_axes
    from mekrr_scale.store.documents import SCHEMA as SCHEMA
    from mekrr_scale.store.documents import OnDuplicate as OnDuplicate
    from mekrr_scale.store.energies import define_energy as define_energy
    from mekrr_scale.store.energies import differing_energies as differing_energies
    from mekrr_scale.store.energies import energy_definition as energy_definition
    from mekrr_scale.store.features import FeatureWriter as FeatureWriter
    from mekrr_scale.store.format import ShardInfo as ShardInfo
    from mekrr_scale.store.format import StoreHeader as StoreHeader
    from mekrr_scale.store.isolated import isolated_atoms as isolated_atoms
    from mekrr_scale.store.isolated import lowest_energies as lowest_energies
    from mekrr_scale.store.manage import finalize as finalize
    from mekrr_scale.store.manage import has_rivals as has_rivals
    from mekrr_scale.store.manage import merge as merge
    from mekrr_scale.store.manage import repack as repack
    from mekrr_scale.store.names import Named as Named
    from mekrr_scale.store.names import Sample as Sample
    from mekrr_scale.store.names import configs_of as configs_of
    from mekrr_scale.store.names import names_of as names_of
    from mekrr_scale.store.names import origins_of as origins_of
    from mekrr_scale.store.names import samples_of as samples_of
    from mekrr_scale.store.origins import Origin as Origin
    from mekrr_scale.store.origins import Origins as Origins
    from mekrr_scale.store.overlaps import shared as shared
    from mekrr_scale.store.parts import Part as Part
    from mekrr_scale.store.reader import BATCH_ATOMS as BATCH_ATOMS
    from mekrr_scale.store.reader import BATCH_STRUCTURES as BATCH_STRUCTURES
    from mekrr_scale.store.reader import HELD_BYTES as HELD_BYTES
    from mekrr_scale.store.reader import FeatureStore as FeatureStore
    from mekrr_scale.store.reader import VerifyLevel as VerifyLevel
    from mekrr_scale.store.reader import deal as deal
    from mekrr_scale.store.reader import open_store as open_store
    from mekrr_scale.store.reduction import Columns as Columns
    from mekrr_scale.store.reduction import Reduction as Reduction
    from mekrr_scale.store.shard import RecordTangents as RecordTangents
    from mekrr_scale.store.shard import StructureRecord as StructureRecord
    from mekrr_scale.store.surveys import DrawnAtoms as DrawnAtoms
    from mekrr_scale.store.surveys import Survey as Survey
    from mekrr_scale.store.surveys import bring_weights as bring_weights
    from mekrr_scale.store.surveys import drawn_atoms as drawn_atoms
    from mekrr_scale.store.surveys import survey as survey
    from mekrr_scale.store.verification import VerifyReport as VerifyReport
    from mekrr_scale.store.verification import verify as verify
    from mekrr_scale.store.writer import ShardWriter as ShardWriter
    from mekrr_scale.store.writer import header_in as header_in
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "axes": ["axes_asked_for", "publish_axes"],
            "features": ["FeatureWriter"],
            "documents": ["OnDuplicate", "SCHEMA"],
            "energies": ["define_energy", "differing_energies", "energy_definition"],
            "format": ["ShardInfo", "StoreHeader"],
            "isolated": ["isolated_atoms", "lowest_energies"],
            "manage": ["finalize", "has_rivals", "merge", "repack"],
            "names": ["Named", "Sample", "configs_of", "names_of", "origins_of", "samples_of"],
            "origins": ["Origin", "Origins"],
            "parts": ["Part"],
            "reader": [
                "BATCH_ATOMS",
                "BATCH_STRUCTURES",
                "FeatureStore",
                "HELD_BYTES",
                "VerifyLevel",
                "deal",
                "open_store",
            ],
            "reduction": ["Columns", "Reduction"],
            "shard": ["RecordTangents", "StructureRecord"],
            "overlaps": ["shared"],
            "surveys": ["DrawnAtoms", "Survey", "bring_weights", "drawn_atoms", "survey"],
            "verification": ["VerifyReport", "verify"],
            "writer": ["ShardWriter", "header_in"],
        },
    )
    __getattr__ = with_old_names(__name__, __getattr__)
