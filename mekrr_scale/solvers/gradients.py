"""Conjugate gradients on many systems that share each product, with a state that can be put away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mekrr_scale.distributed import ALONE, Checkpoint, Group, State
from mekrr_scale.operators import Preconditioner
from mekrr_scale.solvers.solution import Result

Product = Callable[[Float64[Tensor, "rank columns"]], Float64[Tensor, "rank columns"]]
Iterated = Callable[[int, int, float], None]
_NAME = "falkon"


@dataclass(frozen=True)
class System:
    """The best iterate, and how it was reached."""

    value: Float64[Tensor, "rank columns"]
    result: Result
    iterations: int
    history: list[list[float]]  # relative residual of every column after every iteration


@dataclass
class _Iterate:
    beta: Float64[Tensor, "rank columns"]
    residual: Float64[Tensor, "rank columns"]
    direction: Float64[Tensor, "rank columns"]
    rz: Float64[Tensor, " columns"]
    best: Float64[Tensor, "rank columns"]
    best_residual: Float64[Tensor, " columns"]
    improved: Int64[Tensor, " columns"]
    history: list[list[float]]

    def state(self) -> State:
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return State(tensors, {"history": self.history})


@dataclass(frozen=True)
class ConjugateGradients:
    """Preconditioned CG (Hestenes and Stiefel 1952), every column a system of its own.

    The residual is computed from its definition every ``recompute_every`` iterations; the best
    iterate is kept.
    """

    rtol: float
    max_steps: int
    recompute_every: int
    patience: int
    group: Group = ALONE
    checkpoint: Checkpoint | None = None
    iterated: Iterated = lambda step, most, residual: None

    def solve(self, product: Product, right: Float64[Tensor, "rank columns"], preconditioner: Preconditioner) -> System:
        """Solve A beta = right. All ranks iterate alike; the first one's numbers decide."""
        norm = right.norm(dim=0).clamp_min(1e-300)
        at = self._resumed(right.device) or self._start(right, norm, preconditioner)
        while len(at.history) < self.max_steps and not bool((at.best_residual <= self.rtol).all()):
            step = len(at.history) + 1
            at.direction = self.group.broadcast(at.direction.contiguous())
            image = product(at.direction)
            curvature = (at.direction * image).sum(0)
            alpha = torch.where(curvature > 0, at.rz / curvature.clamp_min(1e-300), torch.zeros_like(at.rz))
            at.beta = at.beta + alpha * at.direction
            if step % self.recompute_every == 0:
                at.beta = self.group.broadcast(at.beta.contiguous())
                at.residual = right - product(at.beta)
            else:
                at.residual = at.residual - alpha * image
            relative = self.group.broadcast(at.residual.norm(dim=0) / norm)
            better = relative < at.best_residual
            at.best = torch.where(better, at.beta, at.best)
            at.improved = torch.where(better, step, at.improved)
            at.best_residual = torch.minimum(relative, at.best_residual)
            at.history.append(relative.tolist())
            self.iterated(step, self.max_steps, float(at.best_residual.max()))
            if not bool(torch.isfinite(relative).all()):
                return self._done(at, Result.BREAKDOWN)
            running = at.best_residual > self.rtol
            if bool((step - at.improved[running] >= self.patience).all()) and bool(running.any()):
                return self._done(at, Result.STAGNATED)
            z = preconditioner.apply(at.residual)
            fresh = (at.residual * z).sum(0)
            ratio = torch.where(at.rz > 0, fresh / at.rz.clamp_min(1e-300), torch.zeros_like(at.rz))
            at.direction, at.rz = z + ratio * at.direction, fresh
            self._keep(at)
        solved = bool((at.best_residual <= self.rtol).all())
        return self._done(at, Result.SUCCESS if solved else Result.MAX_STEPS)

    def _start(self, right: Tensor, norm: Tensor, preconditioner: Preconditioner) -> _Iterate:
        z = preconditioner.apply(right)
        return _Iterate(
            beta=torch.zeros_like(right),
            residual=right.clone(),
            direction=z.clone(),
            rz=(right * z).sum(0),
            best=torch.zeros_like(right),
            best_residual=right.norm(dim=0) / norm,
            improved=torch.zeros(right.shape[1], dtype=torch.int64, device=right.device),
            history=[],
        )

    def _resumed(self, device: torch.device) -> _Iterate | None:
        state = None if self.checkpoint is None else self.checkpoint.load(_NAME)
        if state is None:
            return None
        return _Iterate(**{k: t.to(device) for k, t in state.tensors.items()}, history=state.values["history"])

    def _keep(self, at: _Iterate) -> None:
        if self.checkpoint is None or not self.checkpoint.due():
            return
        if self.group.rank == 0:
            self.checkpoint.save(_NAME, at.state())
        self.group.barrier()
        self.checkpoint.end_if_stopped()

    def _done(self, at: _Iterate, result: Result) -> System:
        return System(self.group.broadcast(at.best.contiguous()), result, len(at.history), at.history)
