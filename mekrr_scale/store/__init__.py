"""Features on disk: immutable HDF5 shards, a sidecar for each, and one manifest for all."""

from mekrr_scale.store.features import FeatureWriter
from mekrr_scale.store.format import SCHEMA, ShardInfo, StoreHeader
from mekrr_scale.store.manage import finalize, merge, repack
from mekrr_scale.store.reader import FeatureStore, VerifyLevel, deal
from mekrr_scale.store.shard import RecordTangents, StructureRecord
from mekrr_scale.store.verify import Report, verify
from mekrr_scale.store.writer import ShardWriter

__all__ = [
    "SCHEMA",
    "FeatureStore",
    "FeatureWriter",
    "RecordTangents",
    "Report",
    "ShardInfo",
    "ShardWriter",
    "StoreHeader",
    "StructureRecord",
    "VerifyLevel",
    "deal",
    "finalize",
    "merge",
    "repack",
    "verify",
]
