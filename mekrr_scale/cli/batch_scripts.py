"""Batch scripts for Slurm: extraction as an array, a fit on many nodes, both requeued at their time limit."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mekrr_scale.errors import ConfigError

Launcher = Literal["torchrun", "srun"]


@dataclass(frozen=True)
class Batch:
    """What every script asks Slurm for.

    Args:
        time: limit, as Slurm writes it.
        gpus: for each rank; 0 for CPUs alone.
        cpus: for each rank; its number of threads.
        memory: for each rank, e.g. ``32G``; empty for the cluster's default.
        setup: lines that make ``mekrr_scale`` importable, e.g. ``module load ...; source venv/bin/activate``.
        notice: seconds before the limit at which the job puts its state away and requeues itself.
        extra: further ``#SBATCH`` options.

    Raises:
        ConfigError: a value that Slurm would not take.
    """

    time: str = "04:00:00"
    partition: str = ""
    account: str = ""
    gpus: int = 0
    cpus: int = 8
    memory: str = ""
    setup: str = ""
    notice: int = 180
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(\d+-)?\d{1,2}(:\d{2}){0,2}|\d+", self.time):
            raise ConfigError(f"time {self.time!r}: write hours:minutes:seconds or days-hours, e.g. 12:00:00 or 2-00")
        if self.memory and not re.fullmatch(r"\d+[KMGT]?", self.memory):
            raise ConfigError(f"memory {self.memory!r}: write 32G or 64000M")
        if self.cpus < 1 or self.gpus < 0 or self.notice < 30:
            raise ConfigError("cpus are at least 1, gpus at least 0, and the notice is at least 30 seconds")

    def head(self, name: str, log: str, ranks: int = 1) -> list[str]:
        """The directives; resources of ``ranks`` ranks on each node."""
        options = [f"--job-name={name}", f"--output={log}", f"--time={self.time}", "--requeue", "--open-mode=append"]
        options += [f"--signal=B:USR1@{self.notice}"]
        options += [f"--partition={self.partition}"] * bool(self.partition)
        options += [f"--account={self.account}"] * bool(self.account)
        options += [f"--gpus-per-node={ranks * self.gpus}"] * bool(self.gpus)
        if self.memory:
            number, unit = re.fullmatch(r"(\d+)([KMGT]?)", self.memory).groups()  # type: ignore[union-attr]
            options.append(f"--mem={ranks * int(number)}{unit}")
        return ["#!/bin/bash", *(f"#SBATCH {option}" for option in (*options, *self.extra))]

    def body(self) -> list[str]:
        """What comes before the command."""
        return [
            "",
            "set -uo pipefail",
            *([self.setup] if self.setup else []),
            f"export OMP_NUM_THREADS={self.cpus}",
            "",
        ]


def extract_script(batch: Batch, files: Sequence[str], store: str, parts: int, options: Sequence[str] = ()) -> str:
    """An array of ``parts`` jobs, each extracting its part; what is there already is not made again.

    Raises:
        ConfigError: fewer than one part, or no file.
    """
    if parts < 1 or not files:
        raise ConfigError(f"{parts} parts of {len(files)} files; give at least one of each")
    command = shlex.join(["python", "-m", "mekrr_scale", "extract", *files, "--store", store, *options])
    lines = [
        *batch.head("mekrr-extract", "mekrr-extract-%A_%a.log"),
        f"#SBATCH --array=1-{parts}",
        f"#SBATCH --cpus-per-task={batch.cpus}",
        *batch.body(),
        "# at the time limit: back into the queue; shards that are finished stay",
        'again() { kill -TERM "$work"; scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"; }',
        "trap again USR1",
        f'{command} --part "$SLURM_ARRAY_TASK_ID/{parts}"{" --device cuda" if batch.gpus else ""} &',
        "work=$!",
        'wait "$work"',
    ]
    return "\n".join(lines) + "\n"


def finalize_script(batch: Batch, store: str) -> str:
    """The job that joins the parts, to be run after the array."""
    lines = [
        *batch.head("mekrr-finalize", "mekrr-finalize-%j.log"),
        *batch.body(),
        shlex.join(["python", "-m", "mekrr_scale", "store", "finalize", store]),
    ]
    return "\n".join(line for line in lines if "gpus-per-node" not in line) + "\n"


def fit_script(
    batch: Batch,
    config: str,
    nodes: int = 1,
    ranks: int = 1,
    launcher: Launcher = "torchrun",
    checkpoint: str = "fit.checkpoint",
    options: Sequence[str] = (),
) -> str:
    """A fit on ``nodes`` nodes with ``ranks`` ranks on each; it goes on from its checkpoint when requeued.

    Raises:
        ConfigError: fewer than one node or rank.
    """
    if nodes < 1 or ranks < 1:
        raise ConfigError(f"{nodes} nodes with {ranks} ranks each; give at least one of both")
    work = shlex.join(["-m", "mekrr_scale", "fit", config, "--checkpoint", checkpoint, *options])
    if launcher == "torchrun":
        tasks = [f"#SBATCH --ntasks-per-node=1\n#SBATCH --cpus-per-task={ranks * batch.cpus}"]
        start = [
            'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            f'srun --kill-on-bad-exit=1 torchrun --nnodes="$SLURM_NNODES" --nproc-per-node={ranks} --max-restarts=3 \\',
            '    --rdzv-id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" --rdzv-backend=c10d \\',
            f'    --rdzv-endpoint="$head:$((20000 + SLURM_JOB_ID % 20000))" \\\n    {work} &',
        ]
    else:
        tasks = [f"#SBATCH --ntasks-per-node={ranks}\n#SBATCH --cpus-per-task={batch.cpus}"]
        start = [f"srun --kill-on-bad-exit=1 python {work} &"]
    folder = shlex.quote(checkpoint)
    lines = [
        *batch.head("mekrr-fit", "mekrr-fit-%j.log", ranks),
        f"#SBATCH --nodes={nodes}",
        *tasks,
        *batch.body(),
        "# before the time limit: ask all ranks to put their state away, then back into the queue",
        "again() {",
        f"    mkdir -p {folder} && touch {folder}/stop",
        f'    for _ in $(seq {batch.notice - 20}); do kill -0 "$work" 2> /dev/null || break; sleep 1; done',
        '    scontrol requeue "$SLURM_JOB_ID"',
        "}",
        "trap again USR1",
        f"rm -f {folder}/stop",
        *start,
        "work=$!",
        'wait "$work"',
        "code=$?",
        "# exit code 75: stopped by a signal (preemption, say) with its state kept",
        f'if [ "$code" -eq 75 ] || [ -e {folder}/stopped ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"
