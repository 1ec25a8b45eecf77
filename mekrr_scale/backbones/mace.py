"""MACE (Batatia et al., arXiv 2206.07697) as a feature extractor, from any checkpoint file of it.

MACE's own modules do the work in the order of its forward pass (its ``get_descriptors``
detaches what it returns); edge vectors are built here from positions and strain. The package
``mace-torch`` needs e3nn 0.4 and cannot share an environment with ``sevenn``.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mekrr_scale.backbones.base import Backbone
from mekrr_scale.backbones.invariants import Invariants, require_channels
from mekrr_scale.backbones.output import BackboneOutput
from mekrr_scale.backbones.spec import Architecture, InvariantKind, layers_of
from mekrr_scale.backbones.trust import read_foreign, trusting_code
from mekrr_scale.backbones.weights import HELD, Source, read_own, require_own, save
from mekrr_scale.errors import BackboneError, suggestion
from mekrr_scale.structures import Graph

_NETWORKS = ("MACE", "ScaleShiftMACE")  # classes of MACE's whose energies ``on_edges`` gives
_CLASSES = ("interaction_cls", "interaction_cls_first", "readout_cls")
_GATES = ("silu", "tanh", "abs", "relu", "sigmoid", "gelu", "softplus", "elu", "selu", "mish", "leaky_relu")
_IRREPS = ("hidden_irreps", "MLP_irreps", "edge_irreps")


@final
class Mace(Backbone):
    """MACE's channels after some of its interactions: scalars, and invariants of the others.

    Args:
        checkpoint: a model file of MACE (``.model``), which holds code and is read only if the user
            trusts it, or one made of it by ``save_mace``, which does not.
        layer: ``interaction1`` ..., or several joined by +, whose channels are put side by
            side; default: all.
        version: the head of a model with several; default: the last, as MACE's own calculator.
        invariants: ``scalars`` alone, with squared ``norms`` of the channels of l > 0, or with these and ``products``.

    Raises:
        BackboneError: mace-torch is not installed, no such file, not a MACE model, no such layer, or one without
            channels of l > 0.
    """

    name = "mace"

    def __init__(
        self,
        checkpoint: Source,
        layer: str | None = None,
        version: str | None = None,
        invariants: InvariantKind = "scalars",
    ) -> None:
        self.module, self.coded = _load(checkpoint)
        named = checkpoint if isinstance(checkpoint, str | Path) else HELD
        net = cast(Any, self.module)
        if type(net).__name__ not in _NETWORKS or hasattr(net, "joint_embedding"):
            raise BackboneError(
                f"{named} is a {type(net).__name__} that takes or gives more than geometries and energies; "
                f"models of the classes {' and '.join(_NETWORKS)} without other inputs are supported"
            )
        heads = _heads(self.module)
        if version is not None and version not in heads:
            raise BackboneError(f"{named} has no head {version!r}. {suggestion(version, heads)}")
        self.version = version or heads[-1]
        self.head = heads.index(self.version)  # whose energies are given
        layers = [f"interaction{i + 1}" for i in range(len(net.interactions))]
        chosen = layers_of(layer or "+".join(layers), layers, str(named))
        self.layer = "+".join(chosen)
        numbers = [layers.index(part) for part in chosen]
        # what the features are of the states behind interactions, by their number from 0
        self.taken = {i: _invariants(net.products[i], invariants, i + 1) for i in numbers}
        require_channels(invariants, list(self.taken.values()), f"{self.layer} of {named}")
        self.options = () if invariants == "scalars" else (("invariants", invariants),)
        self.cutoff = float(net.r_max)
        self.species = frozenset(net.atomic_numbers.tolist())
        self.dim = sum(taken.dim for taken in self.taken.values())

    @property
    def has_energy(self) -> bool:
        return True

    def config(self) -> Architecture:
        return _config(self.module, "this network")

    def fresh(self) -> nn.Module:
        return _fresh(self.config())

    def species_rows(self, z: int) -> Sequence[Tensor]:
        net = cast(Any, self.module)
        index = net.atomic_numbers.tolist().index(z)
        found = [view[index] for view in net.node_embedding.linear.weight_views()]
        for interaction, product in zip(net.interactions, net.products, strict=True):
            found += [view[:, index] for view in interaction.skip_tp.weight_views()]
            for part in product.symmetric_contractions.contractions:
                found += [part.weights_max[index], *(weights[index] for weights in part.weights)]
        return [*found, net.atomic_energies_fn.atomic_energies[..., index]]

    def blocks(self) -> dict[str, Sequence[nn.Module]]:
        net = cast(Any, self.module)
        named: dict[str, Sequence[nn.Module]] = {"embedding": [net.node_embedding, net.radial_embedding]}
        for i, pair in enumerate(zip(net.interactions, net.products, strict=True)):
            named[f"interaction{i + 1}"] = pair
        return named | {"readout": [net.readouts]}

    def invariants(self) -> Sequence[Invariants]:
        return list(self.taken.values())

    def hops(self, energies: bool) -> int:
        return len(cast(Any, self.module).interactions) if energies else 1 + max(self.taken)

    def prepare(self, graph: Graph) -> Graph:
        return graph

    def on_edges(self, graph: Graph, vectors: Float[Tensor, "edges 3"], energies: bool = True) -> BackboneOutput:
        net = cast(Any, self.module)
        lengths = vectors.norm(dim=1, keepdim=True)
        places = torch.searchsorted(net.atomic_numbers, graph.numbers)
        attributes = nn.functional.one_hot(places, len(net.atomic_numbers)).to(vectors.dtype)
        # every pair is there from both ends, so that "sender, receiver" may be read either way
        edges = graph.edge_index
        state = net.node_embedding(attributes)
        directions = net.spherical_harmonics(vectors)
        radial, cutoff = net.radial_embedding(lengths, attributes, edges, net.atomic_numbers)
        found, states = [], []
        for i, (interaction, product) in enumerate(zip(net.interactions, net.products, strict=True)):
            state, skip = interaction(
                node_attrs=attributes,
                node_feats=state,
                edge_attrs=directions,
                edge_feats=radial,
                edge_index=edges,
                cutoff=cutoff,
                first_layer=i == 0,
            )
            state = product(node_feats=state, sc=skip, node_attrs=attributes)
            states.append(state)
            if i in self.taken:
                found.append(self.taken[i](state))
                if not energies and len(found) == len(self.taken):
                    return BackboneOutput(torch.cat(found, 1), None)
        return BackboneOutput(torch.cat(found, 1), self._energies(graph, lengths, attributes, states))

    def _energies(
        self, graph: Graph, lengths: Tensor, attributes: Tensor, states: Sequence[Tensor]
    ) -> Float[Tensor, " atoms"]:
        net = cast(Any, self.module)
        heads = torch.full_like(graph.numbers, self.head)
        total = attributes.new_zeros(len(attributes))
        if hasattr(net, "pair_repulsion_fn"):
            total = total + net.pair_repulsion_fn(lengths, attributes, graph.edge_index, net.atomic_numbers)
        last_only = len(net.readouts) == 1
        for i, readout in enumerate(net.readouts):
            total = total + readout(states[-1 if last_only else i], heads)[:, self.head]
        if hasattr(net, "scale_shift"):
            total = net.scale_shift(total, heads)
        references: Tensor = net.atomic_energies_fn(attributes)[:, self.head]
        return references + total


def save_mace(source: str | Path, target: str | Path, trust_code: bool = False) -> None:
    """Rewrite a MACE model file as plain tensors, which can be read without running code.

    Args:
        trust_code: the source is from where you trust: reading it runs the code that it holds, this once.

    Raises:
        BackboneError: not a MACE model whose sizes can be told, or one that is not trusted.
    """
    with trusting_code(trust_code):
        net, _ = _load(Path(source))
    save(target, "mace", net, _config(net, source))


def _config(net: nn.Module, source: object) -> Architecture:
    """Sizes of a network as plain values."""
    from mace.tools.scripts_utils import extract_config_mace_model

    config = extract_config_mace_model(_shifted(net))
    if "error" in config or config.get("cueq_config") or config.get("embedding_specs"):
        raise BackboneError(f"{source} cannot be rewritten: {config.get('error', 'accelerated or with extra inputs')}")
    plain = {key: value for key, value in config.items() if key not in ("cueq_config", "embedding_specs")}
    for key in _CLASSES:
        plain[key] = plain[key].__name__
    for key in _IRREPS:
        plain[key] = None if plain[key] is None else str(plain[key])
    plain["gate"] = None if plain["gate"] is None else str(plain["gate"].__name__)
    plain |= {key: torch.as_tensor(plain[key]).tolist() for key in ("atomic_energies", "atomic_numbers")}
    plain |= {key: torch.as_tensor(plain[key]).tolist() for key in ("atomic_inter_scale", "atomic_inter_shift")}
    plain["avg_num_neighbors"] = float(plain["avg_num_neighbors"])
    plain["heads"] = _heads(net)
    return plain if hasattr(net, "scale_shift") else {**plain, "class": "MACE"}


def _heads(net: nn.Module) -> list[str]:
    """Names of its heads, which networks of older versions of MACE do not have."""
    return list(getattr(net, "heads", ["Default"]))


def _shifted(net: nn.Module) -> nn.Module:
    """With a scale and a shift, without which MACE does not tell a network's sizes."""
    from mace import modules

    if hasattr(net, "scale_shift"):
        return net
    seen = copy.copy(net)
    seen._modules = {**net._modules, "scale_shift": modules.ScaleShiftBlock(1.0, 0.0)}
    seen.__class__ = modules.ScaleShiftMACE
    return seen


def _load(checkpoint: Source) -> tuple[nn.Module, bool]:
    """The network, and whether code of the file was run."""
    require_mace()
    if read_own(checkpoint) is not None:
        plain = require_own(checkpoint, "mace")
        data = _fresh(plain["config"])
        data.load_state_dict(plain["state_dict"])
        return data.eval().requires_grad_(False), False
    path = Path(cast("str | Path", checkpoint))
    if not path.is_file():
        raise BackboneError(f"there is no checkpoint {path}; download a MACE model first (README, section backbones)")
    advice = "; `save_mace` then rewrites it as plain tensors"
    data, coded = read_foreign(path, "mace-torch", advice=advice)  # a pickled module, as MACE's models are
    if not all(hasattr(data, part) for part in ("interactions", "products", "readouts", "radial_embedding", "r_max")):
        raise BackboneError(
            f"{path} holds {type(data).__name__}, not a MACE model; give the .model file (a training checkpoint "
            "of weights alone does not tell the network's sizes)"
        )
    return cast(nn.Module, data.float().eval().requires_grad_(False)), coded


def _fresh(sizes: Architecture) -> nn.Module:
    """A network of these sizes, with random weights."""
    import numpy as np
    from e3nn import o3
    from mace import modules
    from mace.modules import blocks

    config: dict[str, Any] = dict(sizes)
    network = modules.ScaleShiftMACE if config.pop("class", None) is None else modules.MACE
    for key in ("interaction_cls", "interaction_cls_first"):
        config[key] = _allowed(modules.interaction_classes, config[key], _is_module)
    config["readout_cls"] = _allowed(vars(blocks), config["readout_cls"], _is_module)
    for key in _IRREPS:
        config[key] = None if config[key] is None else o3.Irreps(config[key])
    if config["gate"] is not None:
        config["gate"] = _allowed(vars(torch.nn.functional), config["gate"], lambda found: found.__name__ in _GATES)
    config["atomic_energies"] = np.array(config["atomic_energies"])
    for key in ("atomic_inter_scale", "atomic_inter_shift"):
        given = np.array(config.pop(key))
        if network is modules.ScaleShiftMACE:
            config[key] = given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # e3nn 0.4 compiles by means that torch deprecates
        return cast(nn.Module, network(**config).float())


def _is_module(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, nn.Module)


def _allowed(names: Mapping[str, Any], name: object, fits: Callable[[Any], bool]) -> Any:
    """What a file names, if it is of the kind that belongs there.

    Raises:
        BackboneError: it is not.
    """
    found = names.get(str(name))
    if not (callable(found) and fits(found)):
        raise BackboneError(f"the checkpoint names {name!r} as a part of its network, which mace does not have there")
    return found


def require_mace() -> None:
    """Import mace-torch, and undo what its import does to torch.

    It makes ``torch.load`` run code by default, for every file; its e3nn 0.4 reads a table that
    torch's safe reader takes only if slices are allowed.
    """
    before = os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([slice]):
            warnings.simplefilter("ignore")
            from mace.modules import blocks, radial
    except ImportError as error:
        raise BackboneError(
            "backbone mace needs the package mace-torch: pip install 'mekrr-scale[mace]', in an environment without "
            f"sevenn: mace-torch needs e3nn 0.4, sevenn 0.6 ({error})"
        ) from error
    finally:
        if before is None:
            os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    # the same sums out of place, which torch can vectorise over directions; MACE offers no place for them
    blocks.scatter_sum = radial.scatter_sum = _scatter_sum


def _scatter_sum(src: Tensor, index: Tensor, dim: int = -1, out: None = None, dim_size: int | None = None) -> Tensor:
    shape = list(src.shape)
    shape[dim] = int(index.max()) + 1 if dim_size is None else dim_size
    return src.new_zeros(shape).index_add(dim, index, src)


def _invariants(product: Any, kind: InvariantKind, number: int) -> Invariants:
    """What is taken of an interaction's channels, scalars first."""
    irreps = product.linear.irreps_out
    listed = [(multiplicity, irrep.l, irrep.p) for multiplicity, irrep in irreps]
    return Invariants.of(kind, listed, int(irreps.count("0e")), number)
