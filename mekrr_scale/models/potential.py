"""A model together with its backbone: what it predicts of structures, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import torch
from ase import Atoms
from jaxtyping import Float64
from torch import Tensor

from mekrr_scale.arrays import FeatureBatch, usable_device
from mekrr_scale.backbones import (
    Backbone,
    BackboneOutput,
    BackboneSpec,
    Compiled,
    Directions,
    evaluating,
    load_backbone,
    require_backbone,
    tangents,
    trusting_code,
    with_compression,
    within_memory,
)
from mekrr_scale.errors import ModelError
from mekrr_scale.files import parse_bytes
from mekrr_scale.kernels import Head
from mekrr_scale.models.dispersion import Dispersion, as_dispersion
from mekrr_scale.models.model import Model
from mekrr_scale.models.posterior import Posterior, Uncertainty, Variances
from mekrr_scale.models.prior_loading import precision_of, prior_from
from mekrr_scale.models.priors import PriorSpec
from mekrr_scale.structures import (
    Graph,
    Prediction,
    Predictor,
    SkinList,
    edge_vectors,
    require_electrons,
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
        max_memory: what the networks may take for structures, such as ``"4GB"``: those that would take more are worked
            on in chunks. By default half of the memory that is free when a structure is predicted.
        dispersion: D3 dispersion to add, of labels that have none: a functional such as ``"pbe"``,
            ``"pbe:d3zero"``, or a ``Dispersion``. It has no part in uncertainties.

    Raises:
        ModelError: the backbone's identity is not the model's.
        ConfigError: no such precision, size or device; dftd3 is not installed, or does not know the functional.
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
        max_memory: str | int | None = None,
        dispersion: Dispersion | str | None = None,
    ) -> None:
        device = usable_device(device)
        self.model = model if isinstance(model, Model) else Model.load(model)
        precision = precision_of(dtype)
        self.max_memory = None if max_memory is None else parse_bytes(max_memory)  # bytes
        self.dispersion = as_dispersion(dispersion)
        self._compile = compile
        with trusting_code(trust_code):
            self._prior = self._prior_of(self.model, prior, precision, device, self.max_memory)
            backbone = self._backbone_of(self.model) if backbone is None else require_backbone(backbone)
        self.given_prior = prior if prior is self._prior else None  # instead of what the model's file names
        self.backbone = with_compression(backbone, self.model.compression).to(device, precision)
        self.model.require_backbone(self.backbone.identity().to_dict(), "the backbone given")
        self.device = device
        self.references = torch.zeros(119, dtype=torch.float64)  # eV, of the elements, by atomic number
        self.references[list(self.model.baseline.species)] = self.model.baseline.energies

    @staticmethod
    def _prior_of(
        model: Model, given: Predictor | None, dtype: torch.dtype, device: str, max_memory: int | None
    ) -> Predictor | None:
        if not (model.baseline.prior and model.prior):
            return None
        if given is not None:
            return given
        return load_prior(PriorSpec.from_dict(model.prior), dtype, device, held_by=model, max_memory=max_memory)

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
        """Whether another potential's results are added: a prior that is not the backbone itself, or dispersion."""
        return self._prior is not None or self.dispersion is not None

    @property
    def adds_own(self) -> bool:
        """Whether the backbone's own energies are added."""
        return self.model.baseline.prior and not self.model.prior

    @cached_property
    def on_edges(self) -> Callable[..., BackboneOutput]:
        """The backbone's, compiled where that was asked for."""
        return Compiled(self.backbone) if self._compile else self.backbone.on_edges

    def within_memory(self, graph: Graph, energies: bool) -> Graph:
        """The graph as the network may take it: in chunks, if all of it at once would take too much memory.

        Args:
            energies: whether the backbone's own are asked for.

        Raises:
            BackboneError: see ``mekrr_scale.backbones.within_memory``.
        """
        return within_memory(self.backbone, graph, energies, self.max_memory)

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

        A prior mean that is not the backbone's own, and dispersion, add their own.

        Args:
            neighbours: of a single structure that moves little from call to call.

        Raises:
            ModelError: a species, a charge or a spin that the model was not fitted on.
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
        with evaluating(False):
            return found, self._uncertainty(features, graph, posterior)

    def _predicted(
        self, atoms: Atoms | Sequence[Atoms], forces: bool, stress: bool, neighbours: SkinList | None = None
    ) -> tuple[Prediction, Float64[Tensor, "atoms dim"], Graph]:
        """With the features that it stands on."""
        if neighbours is not None and isinstance(atoms, Atoms):
            with evaluating(False):
                graph = self.backbone.prepare(neighbours.graph(atoms)).to(self.backbone.device, self.backbone.dtype)
        else:
            graph = self.backbone.graph([atoms] if isinstance(atoms, Atoms) else list(atoms))
        self._check(graph, [atoms] if isinstance(atoms, Atoms) else atoms)
        with evaluating(forces or stress):
            found, features = self._corrections(graph, forces, stress)
        require_finite(found, [atoms] if isinstance(atoms, Atoms) else list(atoms))
        for other in (self._prior, self.dispersion):
            found = found if other is None else found.plus(other.predict(atoms, forces, stress))
        return found, features, graph

    def _corrections(self, graph: Graph, forces: bool, stress: bool) -> tuple[Prediction, Float64[Tensor, "atoms dim"]]:
        """What the kernel, the references and the backbone's own energies give, and the features."""
        positions = graph.positions.detach().clone().requires_grad_(forces or stress)
        strain = positions.new_zeros(graph.n_structures, 3, 3).requires_grad_(stress)
        graph = self.within_memory(graph, self.adds_own)
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

    def _check(self, graph: Graph, structures: Sequence[Atoms]) -> None:
        """Refuse what the model was not fitted to."""
        self.model.check_species(graph.numbers.unique().tolist())
        for atoms in structures if self.model.electrons is not None else ():
            require_electrons(self.model.electrons or {}, atoms, self.backbone.takes)

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
        with evaluating(False):
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
        self._check(graph, structures)
        graph = self.within_memory(graph, energies=False)
        with evaluating(False):
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
    max_memory: int | None = None,
) -> Predictor:
    """What gives the energies of a prior.

    Args:
        trust_code: see ``Potential``.
        held_by: the model whose prior it is, which may bring it along.
        max_memory: bytes that its network may take, see ``Potential``.

    Raises:
        ModelError: its file is missing or another one than the model was fitted with.
        BackboneError: its backbone cannot be loaded.
    """
    inner = partial(Potential, dtype=dtype, device=device, trust_code=trust_code, max_memory=max_memory)
    return prior_from(spec, inner, dtype, device, trust_code, held_by, max_memory)


def as_potential(model: Potential | Model | Path | str, device: str = "cpu") -> Potential:
    """A potential of whatever a caller has: itself, a model, or a model's file.

    Raises:
        ModelError: see ``Model.load`` and ``Potential``.
    """
    return model if isinstance(model, Potential) else Potential(model, device=device)
