"""How many cores the program may use, and how its threads wait; settled before torch is loaded, which reads it once."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let idle threads sleep, and use no more of them than cores are granted; what the user has set stays.

    Threads that spin while they wait took half of the CPU time on machines that are shared. Without a limit by a
    control group or Slurm the number of threads is left to torch.
    """
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    present = affinity()
    granted = usable_cores(environment)
    if granted < present:
        environment.setdefault("OMP_NUM_THREADS", str(granted))


def usable_cores(environment: MutableMapping[str, str] = os.environ) -> int:
    """Cores that this process may use: by its affinity, its control group's quota, and what Slurm gave each task."""
    limits = [float(affinity()), *quotas()]
    asked = environment.get("SLURM_CPUS_PER_TASK", "")
    if asked.isdigit() and int(asked) > 0:
        limits.append(float(asked))
    return max(1, int(min(limits)))


def affinity() -> int:
    """Cores that the system lets this process run on."""
    asked = getattr(os, "sched_getaffinity", None)
    return (os.cpu_count() or 1) if asked is None else len(asked(0))


def quotas(groups: Path = _CONTROL_GROUPS, own: Path = _OWN_GROUP) -> Iterator[float]:
    """Cores that control groups of both versions allow, the process's own and those above it."""
    for folder in _folders(groups, own):
        quota = _numbers(folder / "cpu.max")
        if not quota:
            quota = [*_numbers(folder / "cpu.cfs_quota_us"), *_numbers(folder / "cpu.cfs_period_us")]
        if len(quota) == 2 and min(quota) > 0:  # -1 and "max": no limit
            yield quota[0] / quota[1]


def _folders(groups: Path, own: Path) -> Iterator[Path]:
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = groups / controllers if controllers else groups
        inside = top / path.lstrip("/")
        yield from [inside, *(parent for parent in inside.parents if parent.is_relative_to(top))]


def _numbers(path: Path) -> list[int]:
    """Those in a file; none where it is missing, or sets no limit."""
    try:
        return [int(word) for word in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError):
        return []
