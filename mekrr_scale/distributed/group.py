"""The ranks of a job: how they meet, and what they tell each other.

Launched by torchrun or srun, one process per GPU or core group; without a launcher a job is one
rank. Tensors alone are sent, never pickles.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from mekrr_scale.errors import ConfigError, RankError

_STEP = 12361  # between the ports of a job's steps, which may share a node with each other and with the next jobs


@dataclass(frozen=True)
class Group:
    """This process among the ranks of the job. Every collective must be called by all of them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine
    store: dist.Store | None = field(default=None, repr=False, compare=False)
    limit: float = 1800.0  # seconds after which this rank gives up waiting for another

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place."""
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def maximum(self, tensor: Tensor) -> Tensor:
        """Maximum over the ranks, in place."""
        return self._reduced(tensor, dist.ReduceOp.MAX)

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """The tensor of one rank, in place; shapes must agree."""
        if self.size > 1:
            _guarded(lambda: dist.broadcast(tensor, source))
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks; their first dimensions may differ."""
        if self.size == 1:
            return [tensor]
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        _guarded(lambda: dist.all_gather(sizes, torch.tensor([len(tensor)])))
        lengths = [int(size) for size in sizes]
        padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        found = [torch.empty_like(padded) for _ in lengths]
        _guarded(lambda: dist.all_gather(found, padded))
        return [part[:length] for part, length in zip(found, lengths, strict=True)]

    def joined(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, one after the other."""
        return tensor if self.size == 1 else torch.cat(self.gather(tensor))

    def gather_json(self, value: Any) -> list[Any]:
        """A JSON value of every rank."""
        if self.size == 1:
            return [value]
        text = json.dumps(value).encode()
        parts = self.gather(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        return [json.loads(part.numpy().tobytes()) for part in parts]

    def agree(self, value: float) -> float:
        """The number of the first rank, on all of them."""
        return float(self.broadcast(torch.tensor([value], dtype=torch.float64)))

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            _guarded(dist.barrier)

    def count(self, name: str, amount: int = 1, limit: float | None = None) -> int:
        """Add to a counter that all ranks share, without waiting for any of them but the first, which holds it.

        Args:
            limit: seconds to wait for that, by default as long as for everything.
        """
        if self.store is None:
            return amount
        store = self.store
        seconds = self.limit if limit is None else limit
        return int(_guarded(lambda: _within(seconds, lambda: store.add(f"mekrr/{name}", amount))))

    def require_alike(self, **facts: str) -> None:
        """Refuse a job whose ranks were given different things; every rank must ask.

        Raises:
            ConfigError: names what differs, on all ranks.
        """
        everyones = self.gather_json(facts)
        for name, first in everyones[0].items():
            for rank, other in enumerate(everyones):
                if other.get(name) != first:
                    raise ConfigError(
                        f"rank {rank} was given another {name} than rank 0 ({_shown(other.get(name), first)}); start "
                        "all ranks with the same command on the same files"
                    )

    def leave(self) -> None:
        """End the job's communication."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def _reduced(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size > 1:
            _guarded(lambda: dist.all_reduce(tensor, operation))
        return tensor


ALONE = Group()


def join(timeout: float = 1800.0) -> Group:
    """Meet the other ranks that torchrun or srun has started; alone without either.

    Args:
        timeout: seconds after which a rank gives up waiting for the others.

    Raises:
        ConfigError: a launcher's environment that is incomplete.
        RankError: the other ranks do not come.
    """
    place = place_of(os.environ)
    if place is None:
        return ALONE
    rank, size, local_rank, environment = place
    os.environ.update(environment)
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    limit = timedelta(seconds=timeout)
    store, rank, size = _guarded(lambda: next(rendezvous("env://", rank, size, timeout=limit)))
    store.set_timeout(limit)
    _guarded(lambda: dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit))
    return Group(rank, size, local_rank, store, timeout)


def place_of(environment: Any) -> tuple[int, int, int, dict[str, str]] | None:
    """Rank, size, local rank, and what torch needs to know besides; None without a launcher."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if missing:
            raise ConfigError(f"RANK and WORLD_SIZE are set, but not {' and '.join(missing)}; start with torchrun")
        rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
        if not rank < size:
            raise ConfigError(f"RANK is {rank} of WORLD_SIZE {size}: ranks count from 0; start with torchrun")
        return rank, size, _number(environment, "LOCAL_RANK", 0), {}
    if _number(environment, "SLURM_STEP_NUM_TASKS", 1) > 1 and "SLURM_PROCID" in environment:
        nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", ""))
        job, step = _number(environment, "SLURM_JOB_ID", 0), _number(environment, "SLURM_STEP_ID", 0)
        found = {
            "MASTER_ADDR": environment.get("MASTER_ADDR", first_host(nodes)),
            "MASTER_PORT": environment.get("MASTER_PORT", str(20000 + (job + _STEP * step) % 20000)),
            "RANK": environment["SLURM_PROCID"],
            "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        }
        rank, size = _number(environment, "SLURM_PROCID"), _number(environment, "SLURM_STEP_NUM_TASKS")
        return rank, size, _number(environment, "SLURM_LOCALID", 0), found
    return None


def _number(environment: Any, name: str, default: int | None = None) -> int:
    """A count that a launcher has put into the environment.

    Raises:
        ConfigError: it is none.
    """
    text = str(environment.get(name, default))
    if not text.isdecimal():
        raise ConfigError(
            f"{name} is {text!r} in the environment, not a number; unset it, or start with torchrun or srun"
        )
    return int(text)


def first_host(nodes: str) -> str:
    """The first name of a Slurm node list.

    >>> first_host("gpu[007-010,12],login1")
    'gpu007'
    >>> first_host("rack[1-2]n[5,7]-ib")
    'rack1n5-ib'
    >>> first_host("node3")
    'node3'
    """
    match = re.match(r"(?:[^,\[\]]|\[[^\[\],-][^\[\]]*\])+", nodes)
    if match is None:
        raise ConfigError(f"Slurm's node list {nodes!r} cannot be read; set MASTER_ADDR to the first node's name")
    return re.sub(r"\[([^,-]+)[^\]]*\]", r"\1", match.group())


def share(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Deal items of different sizes to parts of nearly equal total, largest first.

    >>> share([5, 3, 3, 1], 2)
    [[0, 3], [1, 2]]
    """
    dealt: list[list[int]] = [[] for _ in range(parts)]
    loads = [0] * parts
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        least = min(range(parts), key=lambda p: (loads[p], p))
        dealt[least].append(item)
        loads[least] += sizes[item]
    return [sorted(items) for items in dealt]


def _shown(mine: str | None, first: str) -> str:
    """Where two texts begin to differ."""
    mine = str(mine)
    place = next((i for i, (a, b) in enumerate(zip(mine, first, strict=False)) if a != b), min(len(mine), len(first)))
    begin = max(0, place - 40)
    return f"{mine[begin : begin + 100]!r} instead of {first[begin : begin + 100]!r}"


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """The result of a call that may never return: a store asks its rank without looking at the clock.

    Raises:
        RuntimeError: it has not returned in time.
    """
    found: list[Any] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            found.append(call())
        except Exception as error:  # told by the thread that waits
            errors.append(error)

    waiting = threading.Thread(target=work, daemon=True)
    waiting.start()
    waiting.join(seconds)
    if errors:
        raise errors[0]
    if not found:
        raise RuntimeError(f"the first rank did not answer in {seconds:g} seconds")
    return found[0]


def _guarded(call: Callable[[], Any]) -> Any:
    """Run a collective; what goes wrong in one is most often another rank's end."""
    try:
        return call()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise RankError(
            f"this rank lost the others; the first error above, or in their logs, is the cause ({reason})"
        ) from error
