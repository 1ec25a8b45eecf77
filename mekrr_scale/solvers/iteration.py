"""The loop of Krylov methods on many systems that share each product, with a state that can be put away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast, final, runtime_checkable

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from mekrr_scale.distributed import ALONE, Checkpoint, Group, State
from mekrr_scale.progress import Progress, Silent
from mekrr_scale.solvers.preconditioners import Preconditioner
from mekrr_scale.solvers.solution import Result

Product = Callable[[Float64[Tensor, "rank columns"]], Float64[Tensor, "rank columns"]]
Enough = Callable[[Float64[Tensor, "rank columns"], Bool[Tensor, " columns"]], bool]
_NAME = "falkon"  # of states, since 0.1.0


@dataclass(frozen=True)
class System:
    """The best iterate, and how it was reached."""

    value: Float64[Tensor, "rank columns"]
    result: Result
    iterations: int
    history: list[list[float]]  # relative residual of every column after every iteration
    residuals: Float64[Tensor, " columns"]  # relative ones, of the best iterate

    def judged(self, columns: Sequence[int], rtol: float) -> Result:
        """How it ended for some columns: solved, if these are, whatever the others do."""
        if self.result is Result.BREAKDOWN or not columns:
            return self.result
        return Result.SUCCESS if bool((self.residuals[list(columns)] <= rtol).all()) else self.result


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
    image: Float64[Tensor, "rank columns"] | None = None  # A direction, of methods that know it without a product

    def state(self) -> State:
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return State(tensors, {"history": self.history})


@runtime_checkable
class Method(Protocol):
    """What tells one method of conjugate directions from another; every column is a system of its own.

    With z, rho and perhaps A z of ``aim``: direction <- z + (rho / rho before) direction, and as far along it as
    rho / ``curvature``.
    """

    def aim(
        self, residual: Float64[Tensor, "rank columns"], product: Product, preconditioner: Preconditioner
    ) -> tuple[Float64[Tensor, "rank columns"], Float64[Tensor, " columns"], Float64[Tensor, "rank columns"] | None]:
        """The preconditioned residual z, its inner product rho, and A z where that was taken for it."""

    def curvature(
        self,
        direction: Float64[Tensor, "rank columns"],
        image: Float64[Tensor, "rank columns"],
        preconditioner: Preconditioner,
    ) -> Float64[Tensor, " columns"]:
        """What rho is divided by, of a direction and its image A direction."""


@final
@dataclass(frozen=True)
class Iteration:
    """A method's iterations.

    The residual is computed from its definition every ``recompute_every`` iterations; the best
    iterate is kept.
    """

    method: Method
    rtol: float
    max_steps: int
    recompute_every: int
    patience: int
    group: Group = ALONE
    checkpoint: Checkpoint | None = None
    progress: Progress = field(default_factory=Silent)

    def solve(
        self,
        product: Product,
        right: Float64[Tensor, "rank columns"],
        preconditioner: Preconditioner,
        enough: Enough | None = None,
    ) -> System:
        """Solve A beta = right. All ranks iterate alike; the first one's numbers decide.

        Args:
            enough: asked every ``recompute_every`` iterations where some columns are solved and others are not:
                whether those do not matter any more.
        """
        norm = right.norm(dim=0).clamp_min(1e-300)
        at = self._resumed(right.device) or self._start(right, norm, product, preconditioner)
        self.progress.stage("iterations", self.max_steps, "iterations")
        self.progress.advance(len(at.history))
        while len(at.history) < self.max_steps and not bool((at.best_residual <= self.rtol).all()):
            step = len(at.history) + 1
            self._advance(at, step, right, product, preconditioner)
            relative = self.group.broadcast(at.residual.norm(dim=0) / norm)
            better = relative < at.best_residual
            at.best = torch.where(better, at.beta, at.best)
            at.improved = torch.where(better, step, at.improved)
            at.best_residual = torch.minimum(relative, at.best_residual)
            at.history.append(relative.tolist())
            self._tell(step, float(at.best_residual.max()))
            if not bool(torch.isfinite(relative).all()):
                return self._done(at, Result.BREAKDOWN)
            running = at.best_residual > self.rtol
            if bool((step - at.improved[running] >= self.patience).all()) and bool(running.any()):
                return self._done(at, Result.STAGNATED)
            if enough is not None and step % self.recompute_every == 0 and self._done_with(at, enough):
                break
            self._turn(at, product, preconditioner)
            self._keep(at)
        solved = bool((at.best_residual <= self.rtol).all())
        return self._done(at, Result.SUCCESS if solved else Result.MAX_STEPS)

    def _done_with(self, at: _Iterate, enough: Enough) -> bool:
        """Whether what is not solved yet may be left as it is; known from this iterate alone, so that a fit that goes
        on after a stop ends where it would have ended."""
        solved = at.best_residual <= self.rtol
        if bool(solved.all()) or not bool(solved.any()):
            return False
        return enough(self.group.broadcast(at.best.contiguous()), solved.cpu())

    def _advance(
        self, at: _Iterate, step: int, right: Tensor, product: Product, preconditioner: Preconditioner
    ) -> None:
        """Go along the direction: a new solution and its residual."""
        at.direction = self.group.broadcast(at.direction.contiguous())
        image = product(at.direction) if at.image is None else self.group.broadcast(at.image.contiguous())
        length = _ratio(at.rz, self.method.curvature(at.direction, image, preconditioner))
        at.beta = at.beta + length * at.direction
        if step % self.recompute_every == 0:
            at.beta = self.group.broadcast(at.beta.contiguous())
            at.residual = right - product(at.beta)
        else:
            at.residual = at.residual - length * image

    def _turn(self, at: _Iterate, product: Product, preconditioner: Preconditioner) -> None:
        """The next direction, and its image where the method knows it."""
        z, fresh, image = self.method.aim(at.residual, product, preconditioner)
        kept = _ratio(fresh, at.rz)
        at.direction, at.rz = z + kept * at.direction, fresh
        if image is not None and at.image is not None:
            at.image = image + kept * at.image

    def _tell(self, step: int, residual: float) -> None:
        self.progress.advance(1)
        if step % 10 == 0:
            self.progress.note(f"iteration {step}: relative residual {residual:.1e}")

    def _start(self, right: Tensor, norm: Tensor, product: Product, preconditioner: Preconditioner) -> _Iterate:
        z, rz, image = self.method.aim(right, product, preconditioner)
        return _Iterate(
            beta=torch.zeros_like(right),
            residual=right.clone(),
            direction=z.clone(),
            rz=rz,
            best=torch.zeros_like(right),
            best_residual=right.norm(dim=0) / norm,
            improved=torch.zeros(right.shape[1], dtype=torch.int64, device=right.device),
            history=[],
            image=image,
        )

    def _resumed(self, device: torch.device) -> _Iterate | None:
        state = None if self.checkpoint is None else self.checkpoint.load(_NAME)
        if state is None:
            return None
        return _Iterate(
            **{k: t.to(device) for k, t in state.tensors.items()},
            history=cast(list[list[float]], state.values["history"]),
        )

    def _keep(self, at: _Iterate) -> None:
        if self.checkpoint is None or not self.checkpoint.due():
            return
        if self.group.rank == 0:
            self.checkpoint.save(_NAME, at.state())
        self.group.barrier()
        self.checkpoint.end_if_stopped()

    def _done(self, at: _Iterate, result: Result) -> System:
        best = self.group.broadcast(at.best.contiguous())
        return System(best, result, len(at.history), at.history, at.best_residual.cpu())


def _ratio(above: Float64[Tensor, " columns"], below: Float64[Tensor, " columns"]) -> Float64[Tensor, " columns"]:
    """Their ratio; zero, which ends a column, where the lower one is not positive."""
    return torch.where(below > 0, above / below.clamp_min(1e-300), torch.zeros_like(above))
