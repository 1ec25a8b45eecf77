"""A model together with its backbone: what it predicts of structures, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from ase import Atoms
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch
from mekrr_scale.backbones import (
    Backbone,
    BackboneEnergies,
    BackboneOutput,
    BackboneSpec,
    Compiled,
    Directions,
    differentiating,
    load_backbone,
    tangents,
    trusting_code,
    with_compression,
)
from mekrr_scale.errors import ConfigError, ModelError, suggestion
from mekrr_scale.files import file_hash
from mekrr_scale.kernels import Head
from mekrr_scale.models.model import Model
from mekrr_scale.models.posterior import Posterior, Uncertainty, Variances
from mekrr_scale.models.priors import PriorSpec
from mekrr_scale.structures import (
    Entering,
    Entry,
    Graph,
    LabelKeys,
    Labelled,
    Prediction,
    Predictor,
    SkinList,
    edge_vectors,
    require_finite,
    require_finite_atoms,
)

_MADE_AGAIN = ("on_edges", "variances", "head")


class Potential:
    """A model together with its backbone: energies, forces and stress of structures.

    It can be copied and pickled; a copy predicts the same. What is made once (prepared landmarks, a
    compiled backbone) is left out and made again.

    Args:
        model: a model, or the path of one.
        backbone: an instance to use instead of loading the model's; must be the same one.
        prior: what the model corrects, instead of loading what its file names; e.g. a calculator of a
            lower level of theory (``Calculated``).
        dtype: of the backbone; ``"float64"`` is understood too.
        device: where backbone and kernel are evaluated, e.g. ``"cuda"``; results lie in the host's memory.
        compile: compile the backbone (torch.compile): a minute or two at the first call, then 1.3 to 1.7 times the
            speed with SevenNet and CHGNet on a CPU. Without a C++ compiler it runs as it is, with a warning.
        trust_code: the checkpoint that the model names is from where you trust, if it holds code (MACE's).

    Raises:
        ModelError: the backbone's identity is not the model's.
    """

    def __init__(
        self,
        model: Model | Path | str,
        backbone: Backbone | None = None,
        dtype: torch.dtype | str = torch.float32,
        device: str = "cpu",
        compile: bool = False,
        prior: Predictor | None = None,
        trust_code: bool = False,
    ) -> None:
        self.model = model if isinstance(model, Model) else Model.load(model)
        precision = _precision(dtype)
        self._compile = compile
        with trusting_code(trust_code):
            self._prior = self._prior_of(self.model, prior, precision, device)
            backbone = self._backbone_of(self.model) if backbone is None else backbone
        self.backbone = with_compression(backbone, self.model.compression).to(device, precision)
        self.model.require_backbone(self.backbone.identity().to_dict(), "the backbone given")
        self.device = device
        self.references = torch.zeros(119, dtype=torch.float64)  # eV, of the elements, by atomic number
        self.references[list(self.model.baseline.species)] = self.model.baseline.energies

    @staticmethod
    def _prior_of(model: Model, given: Predictor | None, dtype: torch.dtype, device: str) -> Predictor | None:
        if not (model.baseline.prior and model.prior):
            return None
        return given or load_prior(PriorSpec.from_dict(model.prior), dtype, device, held_by=model)

    @staticmethod
    def _backbone_of(model: Model) -> Backbone:
        if not model.spec:
            raise ModelError(
                f"the model was fitted on features of the user's own ({model.backbone.get('name')!r}); give the "
                "backbone that makes them, or predict from a store of features"
            )
        return load_backbone(BackboneSpec.of(model.spec), weights=None if model.weights is None else model.weights.file)

    def __repr__(self) -> str:
        return f"Potential on {self.backbone!r}:\n{self.model!r}"

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name not in _MADE_AGAIN}

    @property
    def corrects(self) -> bool:
        """Whether another potential's results are added: a prior that is not the backbone itself."""
        return self._prior is not None

    @property
    def adds_own(self) -> bool:
        """Whether the backbone's own energies are added."""
        return self.model.baseline.prior and not self.model.prior

    @cached_property
    def on_edges(self) -> Callable[..., BackboneOutput]:
        """The backbone's, compiled where that was asked for."""
        return Compiled(self.backbone) if self._compile else self.backbone.on_edges

    @cached_property
    def head(self) -> Head:
        """The kernel's part, on the device of the backbone."""
        return self.model.head.on(self.device)

    def predict(
        self,
        atoms: Atoms | Sequence[Atoms],
        forces: bool = True,
        stress: bool = False,
        neighbours: SkinList | None = None,
    ) -> Prediction:
        """Energies and, if asked for, forces and stress, by one backward sweep.

        A prior mean that is not the backbone's own adds its own sweep.

        Args:
            neighbours: of a single structure that moves little from call to call.

        Raises:
            ModelError: a species that the model was not fitted on.
            BackboneError: a structure that the backbone cannot take.
            StructureError: no geometry, or atoms on top of each other, of which the network makes no numbers.
        """
        return self._predicted(atoms, forces, stress, neighbours)[0]

    def predict_with_uncertainty(
        self,
        atoms: Atoms | Sequence[Atoms],
        forces: bool = True,
        stress: bool = False,
        neighbours: SkinList | None = None,
    ) -> tuple[Prediction, Uncertainty]:
        """``predict``, and ``uncertainty`` of its energies, by one pass of the network.

        Raises:
            ModelError, BackboneError, StructureError: see both.
        """
        posterior = self._posterior
        found, features, graph = self._predicted(atoms, forces, stress, neighbours)
        with differentiating(False):
            return found, self._uncertainty(features, graph, posterior)

    def _predicted(
        self, atoms: Atoms | Sequence[Atoms], forces: bool, stress: bool, neighbours: SkinList | None = None
    ) -> tuple[Prediction, Float64[Tensor, "atoms dim"], Graph]:
        """With the features that it stands on."""
        if neighbours is not None and isinstance(atoms, Atoms):
            graph = self.backbone.prepare(neighbours.graph(atoms)).to(self.backbone.device, self.backbone.dtype)
        else:
            graph = self.backbone.graph([atoms] if isinstance(atoms, Atoms) else list(atoms))
        self.model.check_species(graph.numbers.unique().tolist())
        with differentiating(forces or stress):
            found, features = self._corrections(graph, forces, stress)
        require_finite(found, [atoms] if isinstance(atoms, Atoms) else list(atoms))
        if self._prior is None:
            return found, features, graph
        prior = self._prior.predict(atoms, forces, stress)
        whole = Prediction(
            found.energy + prior.energy,
            found.energies + prior.energies,
            None if found.forces is None or prior.forces is None else found.forces + prior.forces,
            None if found.stress is None or prior.stress is None else found.stress + prior.stress,
        )
        return whole, features, graph

    def _corrections(self, graph: Graph, forces: bool, stress: bool) -> tuple[Prediction, Float64[Tensor, "atoms dim"]]:
        """What the kernel, the references and the backbone's own energies give, and the features."""
        positions = graph.positions.detach().clone().requires_grad_(forces or stress)
        strain = positions.new_zeros(graph.n_structures, 3, 3).requires_grad_(stress)
        output = self.on_edges(graph, edge_vectors(graph, positions, strain if stress else None), self.adds_own)
        features = output.features.detach().cpu().double()
        values, gradient = self.head.atoms(
            output.features.detach(), graph.numbers.cpu(), graph.owner.cpu(), graph.n_structures, forces or stress
        )
        energies = values.cpu() + self.references[graph.numbers.cpu()]
        if self.adds_own and output.energies is not None:
            energies = energies + output.energies.detach().cpu().double()
        energy = torch.zeros(graph.n_structures, dtype=torch.float64).index_add(0, graph.owner.cpu(), energies)
        if gradient is None:
            return Prediction(energy, energies, None, None), features
        slopes = self.slopes(output, gradient, [positions, strain] if stress else [positions])
        found = -slopes[0].cpu().double() if forces else None
        strained = graph.stress(slopes[1]) if stress else None
        return Prediction(energy, energies, found, strained), features

    def is_isolated(self, atoms: Atoms) -> bool:
        """Whether a structure is one atom without neighbours, its own images included: a reference, no example.

        Raises:
            BackboneError, StructureError: see ``predict``.
        """
        return len(atoms) == 1 and not len(self.backbone.graph([atoms]).edge_owner)

    def slopes(
        self, output: BackboneOutput, gradient: Float64[Tensor, "atoms dim"], inputs: list[Tensor]
    ) -> list[Tensor]:
        """Derivatives of the energy by what the backbone's output depends on.

        Args:
            gradient: of the kernel's part by the features.
        """
        if not output.features.requires_grad:  # isolated atoms: nothing depends on positions
            return [torch.zeros_like(i) for i in inputs]
        outputs, seeds = [output.features], [gradient.to(output.features)]
        if self.adds_own and output.energies is not None:
            outputs.append(output.energies)
            seeds.append(torch.ones_like(output.energies))
        return list(torch.autograd.grad(outputs, inputs, seeds, materialize_grads=True))

    def uncertainty(self, atoms: Atoms | Sequence[Atoms], forces: bool = False) -> Uncertainty:
        """How far predictions may be off, by the model's calibrated posterior.

        Energies need the features alone. Forces need their derivatives in all 3n directions: about
        n times the cost of predicting the forces themselves.

        Raises:
            ModelError: the model keeps no posterior, or none for forces.
        """
        posterior = self._posterior
        if forces and posterior.force is None:
            raise ModelError("the model was fitted without forces, so that it cannot tell how sure they are")
        structures = [atoms] if isinstance(atoms, Atoms) else list(atoms)
        with differentiating(False):
            found = self._uncertainty(*self._features(structures), posterior)
            if not forces or posterior.force is None:
                return found
            parts = [self._force_variance(structure) for structure in structures]
        return replace(found, forces=posterior.force.within_68 * torch.cat(parts).sqrt())

    def _uncertainty(self, features: Float64[Tensor, "atoms dim"], graph: Graph, posterior: Posterior) -> Uncertainty:
        numbers, n_atoms = graph.numbers.cpu(), graph.n_atoms.cpu()
        batch = FeatureBatch.unlabelled(features, numbers, n_atoms)
        size = self.model.kernel.energy_scale(n_atoms)
        factor = posterior.energy.within_68
        local = self.variances.atoms(features, numbers)
        variance, per_atom = self.variances.with_rows(batch)
        return Uncertainty(
            energy=factor * variance.sqrt() * size,
            energies=factor * local.sqrt(),
            grade=self.variances.grades(local, numbers),
            forces=None,
            energy_ratio_95=posterior.energy.within_95 / factor,
            force_ratio_95=None if posterior.force is None else posterior.force.within_95 / posterior.force.within_68,
            per_atom=per_atom,
        )

    def require_uncertainty(self) -> None:
        """Refuse a model that keeps no posterior, before any work.

        Raises:
            ModelError: see ``uncertainty``.
        """
        _ = self._posterior

    def batch(self, atoms: Atoms | Sequence[Atoms]) -> FeatureBatch:
        """Features of structures as the kernels take them, without labels.

        Raises:
            ModelError: a species that the model was not fitted on.
        """
        features, graph = self._features([atoms] if isinstance(atoms, Atoms) else list(atoms))
        return FeatureBatch.unlabelled(features, graph.numbers.cpu(), graph.n_atoms.cpu())

    def _features(self, structures: Sequence[Atoms]) -> tuple[Float64[Tensor, "atoms dim"], Graph]:
        graph = self.backbone.graph(structures)
        self.model.check_species(graph.numbers.unique().tolist())
        with differentiating(False):
            features = self.backbone.forward(graph, graph.positions, energies=False).features.cpu().double()
        require_finite_atoms(features.isfinite().all(1), structures)
        return features, graph

    @property
    def _posterior(self) -> Posterior:
        if self.model.posterior is None:
            raise ModelError(
                "the model keeps no posterior to tell its uncertainty from; fit it with uncertainty = true"
            )
        return self.model.posterior

    @cached_property
    def variances(self) -> Variances:
        """What uncertainties stand on, prepared.

        Raises:
            ModelError: the model keeps no posterior.
        """
        return Variances.on(self.model.kernel, self.model.landmarks, self._posterior, self.device)

    def _force_variance(self, atoms: Atoms) -> Float64[Tensor, "atoms 3"]:
        """Raw variances of all force components of one structure."""
        n = len(atoms)
        features, graph = self._features([atoms])
        moves = torch.eye(3 * n, dtype=graph.positions.dtype).reshape(3 * n, n, 3)
        pushed = (
            tangents(self.backbone, graph, Directions.of_displacements(moves), energies=False).features.cpu().double()
        )
        batch = FeatureBatch.unlabelled(features, graph.numbers.cpu(), graph.n_atoms.cpu(), pushed)
        scale = float(self.model.kernel.energy_scale(batch.n_atoms)) ** 2
        return scale * self.variances.directions(batch).reshape(n, 3)


def load_prior(
    spec: PriorSpec,
    dtype: torch.dtype | str = torch.float32,
    device: str = "cpu",
    trust_code: bool = False,
    held_by: Model | None = None,
) -> Predictor:
    """What gives the energies of a prior.

    Args:
        trust_code: see ``Potential``.
        held_by: the model whose prior it is, which may bring it along.

    Raises:
        ModelError: its file is missing or another one than the model was fitted with.
        BackboneError: its backbone cannot be loaded.
    """
    inner: Predictor
    if spec.kind == "labels":
        return Labelled(spec.keys or LabelKeys())
    if spec.kind == "backbone":
        held = None if held_by is None or held_by.prior_weights is None else held_by.prior_weights.file
        backbone = load_backbone(spec.backbone or BackboneSpec(), trust_code, held).to(device, _precision(dtype))
        if spec.hash and backbone.identity().weight_hash != spec.hash:
            raise ModelError(f"the prior's backbone {backbone.name} has other weights than when the features were made")
        inner = BackboneEnergies(backbone)
    elif held_by is not None and held_by.inner is not None:
        inner = Potential(held_by.inner, dtype=dtype, device=device, trust_code=trust_code)
    else:
        path = Path(str(spec.path))
        if not path.is_file():
            raise ModelError(f"the model corrects the model {path}, which is not there; put it back, or refit")
        if file_hash(path, "sha256") != spec.hash:
            raise ModelError(f"the prior {path} is another file than when the features were made; extract again")
        inner = Potential(Model.load(path), dtype=dtype, device=device, trust_code=trust_code)
    return inner if spec.entry == Entry() else Entering(inner, spec.entry)


def _precision(dtype: torch.dtype | str) -> torch.dtype:
    """The precision of weights, given as torch's or by its name."""
    if isinstance(dtype, torch.dtype):
        return dtype
    names = {"float32": torch.float32, "float64": torch.float64}
    if dtype not in names:
        raise ConfigError(f"dtype {dtype!r}: there is no such precision. {suggestion(dtype, names)}")
    return names[dtype]


def as_potential(model: Potential | Model | Path | str, device: str = "cpu") -> Potential:
    """A potential of whatever a caller has: itself, a model, or a model's file.

    Raises:
        ModelError: see ``Model.load`` and ``Potential``.
    """
    return model if isinstance(model, Potential) else Potential(model, device=device)
