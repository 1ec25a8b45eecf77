"""SevenNet (Park et al., J. Chem. Theory Comput. 20, 4857 (2024)) as a feature extractor.

Weights come with the ``sevenn`` wheel, or from a checkpoint file of the user's. The network's
own modules do the work but for convolutions: edge vectors are built here from positions and strain, and messages are
made (``messages``) and summed here, so that derivatives flow in both modes and in any precision, in half the time.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mekrr_scale.backbones.base import Backbone
from mekrr_scale.backbones.chunks import Rows, sum_rows
from mekrr_scale.backbones.invariants import Invariants, require_channels
from mekrr_scale.backbones.linearized_sevennet import Linearized, Stage, linearized
from mekrr_scale.backbones.messages import Coupling
from mekrr_scale.backbones.output import BackboneOutput
from mekrr_scale.backbones.spec import Architecture, InvariantKind, layers_of
from mekrr_scale.backbones.trust import read_foreign
from mekrr_scale.backbones.weights import Source, plain, read_own, require_own
from mekrr_scale.errors import BackboneError, suggestion
from mekrr_scale.structures import Graph, edge_vectors

# what a user writes: file in the wheel, and the level of theory of a model with several
_WHEEL = {
    "7net-0": ("7net-0_11jul2024", None),
    "7net-0-22may2024": ("7net-0_22may2024", None),
    "7net-l3i5": ("7net-l3i5", None),
    "7net-mf-0-pbe": ("7net-mf-0", "PBE"),
    "7net-mf-0-r2scan": ("7net-mf-0", "R2SCAN"),
}
_CONVOLUTION = "_convolution"  # how names of such modules end


@final
class Sevennet(Backbone):
    """SevenNet's channels behind the gates of some of its interactions: scalars, and invariants of the others.

    Args:
        layer: ``gate1`` ... or several joined by +, whose features are put side by side. A
            feature of a gate sees as many cutoffs far as its number.
        version: weights in the wheel: ``7net-0``, ``7net-0-22may2024``, ``7net-l3i5``,
            ``7net-mf-0-pbe`` or ``7net-mf-0-r2scan``.
        checkpoint: a file of SevenNet's own training instead, of one level of theory, or one of
            ``mekrr-scale pretrain`` or ``finetune``. No code out of it is run, unless the user trusts it.
        invariants: ``scalars`` alone, with squared ``norms`` of the channels of l > 0, or with these and ``products``.

    Raises:
        BackboneError: the wheel is not installed, no such weights, no such layer, or one without channels of l > 0.
    """

    name = "sevennet"
    in_chunks = True

    def __init__(
        self,
        layer: str = "gate1+gate2",
        version: str | None = None,
        checkpoint: Source | None = None,
        invariants: InvariantKind = "scalars",
    ) -> None:
        if version is not None and checkpoint is not None:
            raise BackboneError("backbone sevennet takes a version or a checkpoint, not both")
        if checkpoint is None and (version or "7net-0") not in _WHEEL:
            raise BackboneError(f"sevennet has no weights of version {version!r}. {suggestion(str(version), _WHEEL)}")
        self.version = version or ("7net-0" if checkpoint is None else "checkpoint")
        self.module, self._config, self._modality, self.coded = _load(self.version, checkpoint)
        net = cast(Any, self.module)
        gates = [f"gate{i + 1}" for i in range(sum(name.endswith("_equivariant_gate") for name in net._modules))]
        chosen = layers_of(layer, gates, self.version)
        self.layer = "+".join(chosen)
        numbers = [gates.index(part) for part in chosen]
        self._gates = {
            f"{i}_equivariant_gate": _invariants(net._modules[f"{i}_equivariant_gate"], invariants, i + 1)
            for i in numbers
        }
        require_channels(invariants, list(self._gates.values()), f"{self.layer} of {self.version}")
        self.options = () if invariants == "scalars" else (("invariants", invariants),)
        self.cutoff = float(net.cutoff)
        self.species = frozenset(net.type_map)
        self.dim = sum(taken.dim for taken in self._gates.values())
        self._couplings = {
            name: Coupling.of(module.convolution) for name, module in self._modules() if name.endswith(_CONVOLUTION)
        }
        self._placed: dict[tuple[torch.device, torch.dtype], list[Coupling]] = {}
        types = torch.full((120,), -1, dtype=torch.int64)
        for z, index in net.type_map.items():
            types[z] = index
        self.types = types  # the network's index of each atomic number; -1: it knows none

    @property
    def has_energy(self) -> bool:
        return True

    def config(self) -> Architecture:
        return {"model": self._config, "modality": self._modality}

    def fresh(self) -> nn.Module:
        return _fresh(self._config)

    def species_rows(self, z: int) -> Sequence[Tensor]:
        index, count = int(self.types[z]), len(self.species)
        found = []
        for name, layer in self._modules():
            module = cast(Any, layer)
            linear, product = getattr(module, "linear", None), getattr(module, "fc_tensor_product", None)
            if name == "onehot_to_feature_x" and linear is not None:
                views = linear.weight_views(yield_instruction=True)
                found += [view[index] for _, step, view in views if step.i_in == 0]
            if product is not None:  # of features and the one-hot of the element
                views = product.weight_views(yield_instruction=True)
                found += [view[:, index] for _, _, view in views]
            if name == "rescale_atomic_energy":
                found += [rows[..., index] for rows in (module.shift, module.scale) if rows.shape[-1:] == (count,)]
        return found

    def blocks(self) -> dict[str, Sequence[nn.Module]]:
        named: dict[str, list[nn.Module]] = {"embedding": []}
        for name, module in self._modules():
            place = name.split("_")[0]
            block = f"interaction{int(place) + 1}" if place.isdigit() else "readout" if len(named) > 1 else "embedding"
            named.setdefault(block, []).append(module)
        return dict(named)

    def invariants(self) -> Sequence[Invariants]:
        return list(self._gates.values())

    def hops(self, energies: bool) -> int:
        return sum(stage.convolution is not None for stage in self._stages(energies))

    def prepare(self, graph: Graph) -> Graph:
        return graph

    def on_edges(self, graph: Graph, vectors: Float[Tensor, "edges 3"], energies: bool = True) -> BackboneOutput:
        data = self._data(graph, vectors)
        found: list[Tensor] = []
        for stage in self._stages(energies):
            if stage.convolution is not None:
                data["x"] = _convolve(graph, stage, data)
            data, features = self._through(stage, data)
            found += features
        return BackboneOutput(torch.cat(found, 1), data["atomic_energy"][:, 0] if energies else None)

    def linearize(self, graph: Graph) -> Linearized | None:
        """The features' derivatives as a linear map; None for convolutions that are not e3nn's own."""
        stages = self._stages(energies=False)
        products = [stage.coupling for stage in stages if stage.convolution is not None]
        key = (self.device, self.dtype)
        if key not in self._placed:
            self._placed[key] = [product.on(*key) for product in products if product is not None]
        couplings = self._placed[key]
        if len(couplings) < len(products):
            return None
        embedding = cast(nn.Module, cast(Any, self.module)._modules["edge_embedding"])
        data = self._data(graph, edge_vectors(graph, graph.positions))
        return linearized(graph, data, stages, couplings, self._through, embedding)

    def parts(self, energies: bool) -> SevennetParts:
        """What ``on_edges`` is made of, for those who write it out elsewhere."""
        return SevennetParts(self._run(energies), self._gates, self.types, self._modality)

    def _data(self, graph: Graph, vectors: Float[Tensor, "edges 3"]) -> dict[str, Tensor]:
        data: dict[str, Tensor] = {
            "x": self.types.to(self.device)[graph.numbers],
            "edge_index": graph.edge_index,
            "edge_vec": vectors,
            "batch": graph.owner,
        }
        if self._modality is not None:
            data["modal_type"] = torch.full((graph.n_structures,), self._modality, device=self.device)
        return data

    def _through(self, stage: Stage, data: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """What the modules behind a convolution make of its sums, and the features among it."""
        found = []
        for name, module in stage.modules:
            data = module(data)
            if name == "onehot_idx_to_onehot":  # the module makes float32 whatever the weights are
                data["x"] = data["x"].to(data["edge_vec"].dtype)
                data["node_attr"] = data["x"]
            if name in self._gates:
                found.append(self._gates[name](data["x"]))
        return data, found

    def _stages(self, energies: bool) -> list[Stage]:
        """The network, cut at its convolutions; without energies it ends behind the last gate that is asked for."""
        stages = [Stage(None, None, [])]
        for name, module in self._run(energies):
            if name.endswith(_CONVOLUTION):
                stages.append(Stage(module, self._couplings[name], []))
            else:
                stages[-1].modules.append((name, module))
        return stages

    def _run(self, energies: bool) -> list[tuple[str, nn.Module]]:
        """The modules in order, without energies up to the last gate that is asked for."""
        modules = self._modules()
        if energies:
            return modules
        last = max(i for i, (name, _) in enumerate(modules) if name in self._gates)
        return modules[: last + 1]

    def _modules(self) -> list[tuple[str, nn.Module]]:
        """What lies between a graph and its atoms' energies."""
        modules = cast(dict[str, nn.Module], self.module._modules)
        return [(name, m) for name, m in modules.items() if name not in ("reduce_total_enegy", "force_output")]


def _convolve(graph: Graph, stage: Stage, data: dict[str, Tensor]) -> Tensor:
    """The module's convolution, with a sum that can be vectorised over directions, or made in chunks."""
    centre, neighbour = data["edge_index"]
    module, coupling, sent = stage.convolution, stage.coupling, data["x"]
    inputs: list[Rows] = [(data["edge_embedding"], None), (data["edge_attr"], None)]
    # the compiler joins the steps of e3nn's code itself, and takes many times as long for ours
    if coupling is None or torch.compiler.is_compiling():
        total = sum_rows(graph, centre, len(sent), partial(_own_messages, module), *inputs, (sent, neighbour))
    else:
        total = coupling.summed(graph, partial(_messages, module, coupling), inputs, sent)
    return cast(Tensor, total / module.denominator)


def _own_messages(module: Any, embedding: Tensor, harmonics: Tensor, sent: Tensor) -> Tensor:
    """By the network's own code."""
    return cast(Tensor, module.convolution(sent, harmonics, module.weight_nn(embedding)))


def _messages(module: Any, coupling: Coupling, embedding: Tensor, harmonics: Tensor, sent: Tensor) -> list[Tensor]:
    return coupling.messages(module.weight_nn(embedding), harmonics, sent)


def _invariants(module: nn.Module, kind: InvariantKind, number: int) -> Invariants:
    """What is taken of what a gate gives, scalars first."""
    gate = cast(Any, module).gate
    irreps = [(multiplicity, irrep.l, irrep.p) for multiplicity, irrep in gate.irreps_out]
    return Invariants.of(kind, irreps, int(gate.irreps_scalars.num_irreps), number)


class SevennetParts(NamedTuple):
    """The network's own modules in order, and what the adapter adds."""

    modules: list[tuple[str, nn.Module]]
    gates: dict[str, Invariants]  # what is taken behind which modules
    types: Tensor  # (120,) int64 | the network's index of each element; -1: none
    modality: int | None


class _Config(TypedDict):
    """What ``Sevennet.config`` says."""

    model: Architecture
    modality: int | None


class _Loaded(NamedTuple):
    """The network, its configuration, the index of its level of theory if it knows several; whether code was run."""

    net: nn.Module
    config: Architecture
    modality: int | None
    coded: bool


def _load(version: str, checkpoint: Source | None) -> _Loaded:
    _require()
    if checkpoint is not None and read_own(checkpoint) is not None:
        own = require_own(checkpoint, "sevennet")
        config = cast(_Config, own["config"])
        net = _fresh(config["model"])
        net.load_state_dict(own["state_dict"])
        return _Loaded(net.eval().requires_grad_(False), config["model"], config["modality"], coded=False)
    file, level = _WHEEL.get(version, ("", None))
    path = _in_wheel(file) if checkpoint is None else Path(cast("str | Path", checkpoint))
    if not path.is_file():
        raise BackboneError(f"there is no checkpoint {path}")
    data, coded = read_foreign(path, "sevenn", arrays=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # e3nn and sevenn speak of accelerators
        try:
            source = _checkpoint(path, data)
            net = source.build_model()
        except Exception as error:
            raise BackboneError(f"{path} is not a checkpoint that sevenn can read: {error!r}") from error
    modalities: dict[str, int] = getattr(net, "modal_map", None) or {}
    if modalities and level is None:
        raise BackboneError(f"{path} holds several levels of theory {sorted(modalities)}; only those of the wheel do")
    net.eval().requires_grad_(False)
    net = cast(nn.Module, net)
    return _Loaded(net, plain(source.config), None if level is None else int(modalities[level]), coded)


def _in_wheel(file: str) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sevenn.util import pretrained_name_to_path

        return Path(pretrained_name_to_path(file))


def _checkpoint(path: Path, data: Any) -> Any:
    """SevenNet's view of what a checkpoint holds; by itself it would read the file, and run what is in it."""
    from sevenn import checkpoint

    source = checkpoint.SevenNetCheckpoint(path)
    source._config_original = data["config"]
    source._config = checkpoint._config_cp_routine(data["config"])
    source._model_state_dict = data["model_state_dict"]
    source._loaded = True
    return source


def _fresh(config: Architecture) -> nn.Module:
    _require()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sevenn.model_build import build_E3_equivariant_model

        return cast(nn.Module, build_E3_equivariant_model(copy.deepcopy(dict(config))))


def _require() -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import sevenn.checkpoint  # noqa: F401
    except ImportError as error:
        raise BackboneError(
            "backbone sevennet needs the package sevenn: pip install 'mekrr-scale[sevennet]' (in an environment "
            f"without mace-torch, which needs an older e3nn), or take another (`mekrr-scale backbones`): {error}"
        ) from error
