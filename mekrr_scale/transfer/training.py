"""Training and fine-tuning of backbones on energies, forces and stress.

    loss = w_E <((E - E')/n)^2> + w_F <(F - F')^2> + w_S <(sigma - sigma')^2>,

means over structures, force components and stress components. Adam (Kingma and Ba, arXiv
1412.6980) with decoupled weight decay, cosine annealing with warm restarts (Loshchilov and Hutter,
arXiv 1608.03983), an exponential moving average of the weights, early stopping on a validation set.
A run resumed from its checkpoint makes the same weights, bit by bit, as one that was not stopped.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypedDict, cast

import torch
from torch import Tensor, nn

from mekrr_scale.arrays import kept_memory
from mekrr_scale.backbones import Backbone, evaluating
from mekrr_scale.distributed import Checkpoint, State
from mekrr_scale.errors import ConfigError, SolverError
from mekrr_scale.plans import plan_of
from mekrr_scale.progress import Progress, shown_progress
from mekrr_scale.transfer.examples import Batch, Example, batch_of, epoch_order
from mekrr_scale.transfer.plan import TrainPlan
from mekrr_scale.transfer.report import Record, TrainReport, ValidationErrors
from mekrr_scale.version import __version__

_CLIP = 10.0  # largest norm of a gradient


class _Document(TypedDict):
    """What states hold beside tensors."""

    step: int
    since: list[float]
    history: list[dict[str, Any]]  # records


def train(
    backbone: Backbone,
    training: Sequence[Example],
    validation: Sequence[Example],
    plan: TrainPlan | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    keep_start: bool = True,
) -> TrainReport:
    """Train a backbone, in place.

    Args:
        keep_start: the weights it came with may turn out the best; new random ones may not.
        checkpoint: a folder for the state; called again with the same, training goes on.

    Raises:
        ConfigError: an empty set, an unknown block, nothing that learns, no labels for the weights.
        SolverError: the loss is no longer a number.
        StoppedError: asked to stop by a signal; the state is in the checkpoint.
    """
    plan = plan_of(plan, TrainPlan)
    for name, examples in (("training", training), ("validation", validation)):
        if not examples:
            raise ConfigError(f"the {name} set is empty; give structures for it")
        _require_labels(examples, plan, name)
    parameters = backbone.parameters()
    rates = plan.blocks.learning_rates(list(parameters), plan.learning_rate)
    if checkpoint is not None:
        checkpoint = checkpoint.part("", identity(backbone, training, validation, plan))
    backbone.spec = {}  # it tells of other weights than those to come
    run = _Run(backbone, parameters, rates, plan, keep_start)
    run.restore(checkpoint)
    try:
        with shown_progress(progress, "steps") as shown, kept_memory(), evaluating():
            shown.stage("train", plan.steps, "steps")
            shown.advance(run.step)
            _loop(run, training, validation, shown, checkpoint)
    finally:
        backbone.module.requires_grad_(False)
    run.adopt(run.best_weights)
    return TrainReport(backbone, run.history, run.best, run.step, rates)


def identity(
    backbone: Backbone, training: Sequence[Example], validation: Sequence[Example], plan: TrainPlan
) -> dict[str, object]:
    """What a run of training is: all that changes its weights."""

    def hashed(examples: Sequence[Example]) -> str:
        return hashlib.sha256(repr([example.id for example in examples]).encode()).hexdigest()[:16]

    return {
        "version": __version__,
        "backbone": backbone.identity().to_dict(),
        "training": hashed(training),
        "validation": hashed(validation),
        **{name: repr(value) for name, value in asdict(plan).items()},
    }


def _copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: weight.detach().clone() for key, weight in weights.items()}


class _Run:
    """Weights, their averages and the optimiser's moments: all that a checkpoint holds."""

    def __init__(
        self, backbone: Backbone, parameters: Mapping[str, Mapping[str, nn.Parameter]], rates: Mapping[str, float],
        plan: TrainPlan, keep_start: bool,
    ) -> None:  # fmt: skip
        self.backbone, self.plan, self.rates = backbone, plan, rates
        self.first = 0 if keep_start or not plan.steps else 1  # the first record that may be the best
        learning = [name for name in parameters if rates[name] > 0]
        self.weights = {key: weight for name in learning for key, weight in parameters[name].items()}
        for weight in self.weights.values():
            weight.requires_grad_(True)
        groups = [{"params": list(parameters[name].values()), "lr": rates[name]} for name in learning]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=plan.weight_decay)
        self.scales = [rates[name] for name in learning]
        self.average = _copied(self.weights)
        self.best_weights = dict(self.average)
        self.step = 0
        self.history: list[Record] = []
        self.since: list[float] = []  # losses since the last validation

    @property
    def best(self) -> Record:
        return min(self.history[self.first :] or self.history, key=lambda record: record.validation)

    def update(self, loss: Tensor) -> None:
        """One step of the optimiser, and of the average."""
        weights = list(self.weights.values())
        self.optimizer.zero_grad()
        loss.backward(inputs=weights)  # and not by positions, which nobody asks for
        nn.utils.clip_grad_norm_(weights, _CLIP)
        factor = self.plan.factor(self.step)
        for group, rate in zip(self.optimizer.param_groups, self.scales, strict=True):
            group["lr"] = rate * factor
        self.optimizer.step()
        self.step += 1
        decay = min(self.plan.average, (1 + self.step) / (10 + self.step)) if self.plan.average else 0.0
        with torch.no_grad():
            for key, weight in self.weights.items():
                self.average[key].lerp_(weight, 1 - decay)

    def adopt(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Put weights into the network; returns those that were there."""
        with torch.no_grad():
            before = _copied(self.weights)
            for key, weight in self.weights.items():
                weight.copy_(weights[key])
        return before

    def stale(self) -> bool:
        """Whether the validation loss has not improved for as long as patience lasts."""
        behind = len(self.history) - 1 - self.history.index(self.best)
        return bool(self.plan.patience) and behind >= self.plan.patience

    def state(self) -> State:
        tensors: dict[str, Tensor] = {f"weight/{key}": weight for key, weight in self.weights.items()}
        tensors |= {f"average/{key}": weight for key, weight in self.average.items()}
        tensors |= {f"best/{key}": weight for key, weight in self.best_weights.items()}
        for key, weight in self.weights.items():
            for name, value in self.optimizer.state.get(weight, {}).items():
                tensors[f"{name}/{key}"] = torch.as_tensor(value)
        history = [asdict(record) for record in self.history]
        return State(tensors, {"step": self.step, "history": history, "since": self.since})

    def restore(self, checkpoint: Checkpoint | None) -> None:
        state = None if checkpoint is None else checkpoint.load("training")
        if state is None:
            return
        for key, weight in self.weights.items():
            with torch.no_grad():
                weight.copy_(state.tensors[f"weight/{key}"])
            self.average[key] = state.tensors[f"average/{key}"].to(weight)
            self.best_weights[key] = state.tensors[f"best/{key}"].to(weight)
            for name in ("step", "exp_avg", "exp_avg_sq"):
                if f"{name}/{key}" in state.tensors:
                    value = state.tensors[f"{name}/{key}"]
                    self.optimizer.state[weight][name] = value if name == "step" else value.to(weight)
        values = cast(_Document, state.values)
        self.step, self.since = values["step"], list(values["since"])
        self.history = [Record(**{**item, "errors": ValidationErrors(**item["errors"])}) for item in values["history"]]


def _loop(
    run: _Run,
    training: Sequence[Example],
    validation: Sequence[Example],
    progress: Progress,
    checkpoint: Checkpoint | None,
) -> None:
    plan = run.plan
    interval = plan.interval(len(validation))
    if not run.history:
        _look(run, training, validation, progress)
    while run.step < plan.steps and not run.stale():
        chosen = _chosen(training, plan, run.step)
        loss = batch_loss(run.backbone, batch_of(chosen, run.backbone), plan, create_graph=True)[0]
        if not bool(torch.isfinite(loss)):
            raise SolverError(
                f"the loss is no number any more after {run.step} steps; take a lower learning rate than "
                f"{plan.learning_rate:g}, or look for broken labels"
            )
        run.update(loss)
        run.since.append(float(loss.detach()))
        progress.advance(1)
        if run.step % interval == 0 or run.step == plan.steps:
            _look(run, training, validation, progress)
        if checkpoint is not None and checkpoint.due_here():
            checkpoint.save("training", run.state())
            checkpoint.end_if_stopped()


def _chosen(training: Sequence[Example], plan: TrainPlan, step: int) -> list[Example]:
    """The structures of a step, from its number alone."""
    batches = math.ceil(len(training) / plan.batch)
    epoch, place = divmod(step, batches)
    order = epoch_order(len(training), plan.seed, epoch)[place * plan.batch : (place + 1) * plan.batch]
    return [training[i] for i in order]


def _look(run: _Run, training: Sequence[Example], validation: Sequence[Example], progress: Progress) -> None:
    """Validate the averaged weights, and keep them if they are the best."""
    plan = run.plan
    before = run.adopt(run.average)
    loss, errors = _validate(run.backbone, validation, plan)
    run.adopt(before)
    mean = sum(run.since) / len(run.since) if run.since else math.nan
    rate = max(run.scales) * plan.factor(run.step)
    record = Record(run.step, run.step * plan.batch / len(training), rate, mean, loss, errors)
    run.history.append(record)
    run.since = []
    if record is run.best:
        run.best_weights = _copied(run.average)
    trained = f"{mean:.3g} in training, " if run.step else ""
    progress.note(
        f"step {run.step}, epoch {record.epoch:.1f}: loss {trained}{loss:.3g} in validation ({errors}), rate {rate:.2g}"
    )


def _validate(backbone: Backbone, examples: Sequence[Example], plan: TrainPlan) -> tuple[float, ValidationErrors]:
    """Loss and errors on a whole set."""
    sums, counts = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for start in range(0, len(examples), plan.batch):
        part = examples[start : start + plan.batch]
        loss, squares = batch_loss(backbone, batch_of(part, backbone), plan, create_graph=False)
        sums += torch.tensor([float(loss.detach()) * len(part), *(float(total) for total, _ in squares)])
        counts += torch.tensor([len(part), *(n for _, n in squares)])
    means = (sums / counts).tolist()
    energy, forces, stress = (math.sqrt(mean) for mean in means[1:])
    return means[0], ValidationErrors(energy, forces, stress)


def batch_loss(
    backbone: Backbone, batch: Batch, plan: TrainPlan, create_graph: bool
) -> tuple[Tensor, list[tuple[Tensor, int]]]:
    """Loss of a batch; sums of squares and numbers of the errors in energy per atom, forces and stress."""
    graph = batch.graph
    moved, strained = plan.force_weight > 0 and batch.has_forces, plan.stress_weight > 0 and batch.has_stress
    positions = graph.positions.detach().clone().requires_grad_(moved or strained)
    strain = positions.new_zeros(graph.n_structures, 3, 3).requires_grad_(True) if strained else None
    with torch.set_grad_enabled(create_graph or moved or strained):
        energy = backbone.forward(graph, positions, strain).energy(graph)
        inputs = [tensor for tensor in (positions, strain) if tensor is not None and tensor.requires_grad]
        slopes: Sequence[Tensor] = ()
        if inputs:
            slopes = torch.autograd.grad(energy.sum(), inputs, create_graph=create_graph, materialize_grads=True)
        found: list[tuple[Tensor, Tensor] | None] = [
            (energy / graph.n_atoms, batch.energy / graph.n_atoms),
            (-slopes[0], batch.forces) if moved else None,
            ((slopes[1] + slopes[1].mT) / (2 * batch.volume[:, None, None]), batch.stress) if strained else None,
        ]
        total = torch.zeros((), dtype=torch.float64, device=energy.device)
        squares = []
        for weight, pair in zip(plan.weights, found, strict=True):
            if pair is None:
                squares.append((total.new_zeros(()), 0))
                continue
            known = ~pair[1].isnan()
            errors = (pair[0][known] - pair[1][known]).double()
            squares.append((errors.detach().square().sum(), errors.numel()))
            if weight > 0 and errors.numel():
                total = total + weight * _penalty(errors, plan.huber)
    return total, squares


def _penalty(errors: Tensor, huber: float | None) -> Tensor:
    if huber is None:
        return errors.square().mean()
    return 2 * nn.functional.huber_loss(errors, torch.zeros_like(errors), delta=huber)


def _require_labels(examples: Sequence[Example], plan: TrainPlan, name: str) -> None:
    """Something for the loss to act on."""
    known = (
        any(example.labels.energy is not None for example in examples),
        any(example.labels.forces is not None for example in examples),
        any(example.labels.stress is not None for example in examples),
    )
    if not any(weight > 0 and there for weight, there in zip(plan.weights, known, strict=True)):
        raise ConfigError(f"the {name} set has no label that the weights count (energy, force, stress: {plan.weights})")
