"""Frozen networks whose per-atom features the kernels act on. One adapter a file."""

from typing import TYPE_CHECKING

import lazy_loader as lazy

from mekrr_scale.deprecated import with_old_names

if TYPE_CHECKING:
    from mekrr_scale.backbones.base import Backbone as Backbone
    from mekrr_scale.backbones.base import BackboneIdentity as BackboneIdentity
    from mekrr_scale.backbones.base import identity_of as identity_of
    from mekrr_scale.backbones.base import require_backbone as require_backbone
    from mekrr_scale.backbones.base import spec_of as spec_of
    from mekrr_scale.backbones.base import weight_hash as weight_hash
    from mekrr_scale.backbones.chgnet import Chgnet as Chgnet
    from mekrr_scale.backbones.chunks import of_rows as of_rows
    from mekrr_scale.backbones.chunks import rows_of as rows_of
    from mekrr_scale.backbones.chunks import sum_rows as sum_rows
    from mekrr_scale.backbones.compiled import Compiled as Compiled
    from mekrr_scale.backbones.compressed import Compressed as Compressed
    from mekrr_scale.backbones.compressed import with_compression as with_compression
    from mekrr_scale.backbones.conformance import check_backbone as check_backbone
    from mekrr_scale.backbones.derivatives import Directions as Directions
    from mekrr_scale.backbones.derivatives import TangentOutput as TangentOutput
    from mekrr_scale.backbones.derivatives import tangents as tangents
    from mekrr_scale.backbones.derivatives import tangents_of_each as tangents_of_each
    from mekrr_scale.backbones.dimenet import Dimenet as Dimenet
    from mekrr_scale.backbones.dimenet import new_dimenet as new_dimenet
    from mekrr_scale.backbones.dimenet import save_dimenet as save_dimenet
    from mekrr_scale.backbones.energies import BackboneEnergies as BackboneEnergies
    from mekrr_scale.backbones.invariants import Invariants as Invariants
    from mekrr_scale.backbones.mace import Mace as Mace
    from mekrr_scale.backbones.mace import save_mace as save_mace
    from mekrr_scale.backbones.memory import within_memory as within_memory
    from mekrr_scale.backbones.metatomic import Metatomic as Metatomic
    from mekrr_scale.backbones.output import BackboneOutput as BackboneOutput
    from mekrr_scale.backbones.output import Network as Network
    from mekrr_scale.backbones.registry import available_backbones as available_backbones
    from mekrr_scale.backbones.registry import load_backbone as load_backbone
    from mekrr_scale.backbones.registry import new_backbone as new_backbone
    from mekrr_scale.backbones.registry import packages_of as packages_of
    from mekrr_scale.backbones.rescaled import Rescaled as Rescaled
    from mekrr_scale.backbones.rescaled import Scaling as Scaling
    from mekrr_scale.backbones.rescaled import save_backbone as save_backbone
    from mekrr_scale.backbones.rescaled import unscaled as unscaled
    from mekrr_scale.backbones.rescaled import weights_of as weights_of
    from mekrr_scale.backbones.schnet import Schnet as Schnet
    from mekrr_scale.backbones.schnet import new_schnet as new_schnet
    from mekrr_scale.backbones.schnet import save_schnet as save_schnet
    from mekrr_scale.backbones.sevennet import Sevennet as Sevennet
    from mekrr_scale.backbones.spec import STRESS_TRAINED as STRESS_TRAINED
    from mekrr_scale.backbones.spec import BackboneSpec as BackboneSpec
    from mekrr_scale.backbones.spec import InvariantKind as InvariantKind
    from mekrr_scale.backbones.surroundings import evaluating as evaluating
    from mekrr_scale.backbones.trust import UnsafeCheckpoint as UnsafeCheckpoint
    from mekrr_scale.backbones.trust import code_is_trusted as code_is_trusted
    from mekrr_scale.backbones.trust import trusting_code as trusting_code
    from mekrr_scale.backbones.weights import OwnFile as OwnFile
    from mekrr_scale.backbones.weights import WeightsFile as WeightsFile
    from mekrr_scale.backbones.weights import read_own as read_own
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "base": ["Backbone", "BackboneIdentity", "identity_of", "require_backbone", "spec_of", "weight_hash"],
            "invariants": ["Invariants"],
            "compiled": ["Compiled"],
            "compressed": ["Compressed", "with_compression"],
            "conformance": ["check_backbone"],
            "derivatives": ["Directions", "TangentOutput", "tangents", "tangents_of_each"],
            "dimenet": ["Dimenet", "new_dimenet", "save_dimenet"],
            "chgnet": ["Chgnet"],
            "chunks": ["of_rows", "rows_of", "sum_rows"],
            "energies": ["BackboneEnergies"],
            "mace": ["Mace", "save_mace"],
            "memory": ["within_memory"],
            "metatomic": ["Metatomic"],
            "output": ["BackboneOutput", "Network"],
            "registry": ["available_backbones", "load_backbone", "new_backbone", "packages_of"],
            "rescaled": ["Rescaled", "Scaling", "save_backbone", "unscaled", "weights_of"],
            "schnet": ["Schnet", "new_schnet", "save_schnet"],
            "sevennet": ["Sevennet"],
            "spec": ["STRESS_TRAINED", "BackboneSpec", "InvariantKind"],
            "surroundings": ["evaluating"],
            "trust": ["UnsafeCheckpoint", "code_is_trusted", "trusting_code"],
            "weights": ["OwnFile", "WeightsFile", "read_own"],
        },
    )
    __getattr__ = with_old_names(__name__, __getattr__)
