"""Batch scripts for Slurm: what each asks for, and what it does at its time limit.

A script that can go on asks its work to stop some time before the limit, waits for it, and looks at how it ended:
only work that was stopped goes back into the queue, and only so often. What is done, and what has failed, does not.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mekrr_scale.errors import ConfigError

Launcher = Literal["torchrun", "srun"]

_MARGIN = 20  # seconds before the limit at which a job that is still running is requeued as it is
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d{1,2}))?(?::(\d{1,2}))?")


def seconds_of(time: str) -> float:
    """Seconds of a limit as Slurm writes it; infinite for ``0`` and ``UNLIMITED``.

    >>> seconds_of("12:00:00"), seconds_of("2-00"), seconds_of("90"), seconds_of("10:30")
    (43200.0, 172800.0, 5400.0, 630.0)

    Raises:
        ConfigError: it is not written like that.
    """
    if time.upper() in ("UNLIMITED", "INFINITE"):
        return float("inf")
    match = _TIME.fullmatch(time)
    if match is None:
        raise ConfigError(f"time {time!r}: write hours:minutes:seconds or days-hours, e.g. 12:00:00 or 2-00")
    days, first, second, third = (int(part) if part else 0 for part in match.groups())
    if match.group(1) is not None:
        found = ((days * 24 + first) * 60 + second) * 60 + third
    elif match.group(4) is not None:
        found = (first * 60 + second) * 60 + third
    else:
        found = first * 60 + second
    return float(found) if found else float("inf")


@dataclass(frozen=True)
class Batch:
    """What every script asks Slurm for.

    Args:
        time: limit, as Slurm writes it.
        gpus: for each rank, with their type where that is wanted: ``1`` or ``a100:1``; 0 for CPUs alone.
        cpus: for each rank; its number of threads.
        memory: for each rank, e.g. ``32G``; empty for the cluster's default.
        setup: lines that make ``mekrr_scale`` importable, e.g. ``module load ...; source venv/bin/activate``.
        notice: seconds before the limit at which the job puts its state away and requeues itself.
        extra: further ``#SBATCH`` options, e.g. ``--exclusive``.
        mail: address that is told of the job's end.
        logs: folder of the log files; empty for where the job is submitted.
        requeues: how often a job puts itself back into the queue.

    Raises:
        ConfigError: a value that Slurm would not take.
    """

    time: str = "04:00:00"
    partition: str = ""
    account: str = ""
    gpus: int | str = 0
    cpus: int = 8
    memory: str = ""
    setup: str = ""
    notice: int = 180
    extra: tuple[str, ...] = ()
    qos: str = ""
    constraint: str = ""
    mail: str = ""
    logs: str = ""
    requeues: int = 50

    def __post_init__(self) -> None:
        if self.memory and not re.fullmatch(r"\d+[KMGT]?", self.memory):
            raise ConfigError(f"memory {self.memory!r}: write 32G or 64000M")
        if self.cpus < 1 or self.notice < 30 or self.requeues < 0:
            raise ConfigError("cpus are at least 1, the notice is at least 30 seconds, and requeues are not negative")
        if not re.fullmatch(r"(?:[A-Za-z][\w.-]*:)?\d+", str(self.gpus)):
            raise ConfigError(f"gpus {self.gpus!r}: write a number, or a type and a number, e.g. 1 or a100:1")
        if seconds_of(self.time) <= self.notice:
            raise ConfigError(
                f"the time limit {self.time} is not longer than the notice of {self.notice} seconds; give more time, "
                "or a shorter --notice"
            )
        for name in ("partition", "account", "qos", "constraint", "mail", "logs"):
            if re.search(r"\s", getattr(self, name)):
                raise ConfigError(f"{name} {getattr(self, name)!r} has a space in it, which Slurm would not take")
        for option in self.extra:
            if not re.fullmatch(r"--?[A-Za-z][^\n]*", option):
                raise ConfigError(f"{option!r} is no option of sbatch; write it as after #SBATCH, e.g. --exclusive")

    @property
    def on_gpu(self) -> bool:
        return int(str(self.gpus).rpartition(":")[2]) > 0

    def head(self, name: str, mark: str = "%j", ranks: int = 1, on_gpu: bool = True, notice: bool = True) -> list[str]:
        """The directives; resources of ``ranks`` ranks on each node.

        Args:
            mark: what tells the log files of several jobs apart.
            notice: whether the script is told before its time limit.
        """
        kind, _, count = str(self.gpus).rpartition(":")
        log = f"{self.logs.rstrip('/')}/" * bool(self.logs) + f"{name}-{mark}.log"
        options = [f"--job-name={name}", f"--output={log}", f"--time={self.time}", "--requeue", "--open-mode=append"]
        options += [f"--signal=B:USR1@{self.notice}"] * notice
        for flag in ("partition", "account", "qos", "constraint"):
            options += [f"--{flag}={getattr(self, flag)}"] * bool(getattr(self, flag))
        options += [f"--mail-user={self.mail}", "--mail-type=END,FAIL"] * bool(self.mail)
        if self.on_gpu and on_gpu:
            options.append(f"--gpus-per-node={kind}{':' * bool(kind)}{ranks * int(count)}")
        if self.memory:
            number, unit = re.fullmatch(r"(\d+)([KMGT]?)", self.memory).groups()  # type: ignore[union-attr]
            options.append(f"--mem={ranks * int(number)}{unit}")
        return ["#!/bin/bash", *(f"#SBATCH {option}" for option in (*options, *self.extra))]

    def body(self) -> list[str]:
        """What comes before the command; ``set -u`` after the user's lines, which conda's do not bear."""
        return [
            "",
            *([self.setup] if self.setup else []),
            "set -uo pipefail",
            f"export OMP_NUM_THREADS={self.cpus}",
            "",
        ]

    def device(self, options: Sequence[str]) -> list[str]:
        """The option for a GPU, where there is one and no other was asked for."""
        given = any(word == "--device" or word.startswith("--device=") for word in options)
        return ["--device", "cuda"] if self.on_gpu and not given else []

    def requeue(self, job: str = "$SLURM_JOB_ID") -> list[str]:
        """A function that puts the job back into the queue, so often and no more."""
        return [
            "requeue() {",
            f'    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {self.requeues} ]; then',
            f'        scontrol requeue "{job}"',
            "    else",
            f'        echo "requeued {self.requeues} times already (--requeues): not again" >&2',
            "    fi",
            "}",
        ]


def extract_script(batch: Batch, files: Sequence[str], store: str, parts: int, options: Sequence[str] = ()) -> str:
    """An array of ``parts`` jobs, each extracting its part; what is there already is not made again.

    Raises:
        ConfigError: fewer than one part, or no file.
    """
    if parts < 1 or not files:
        raise ConfigError(f"{parts} parts of {len(files)} files; give at least one of each")
    words = ["extract", *files, "--store", store, *options, *batch.device(options)]
    remark = "at the time limit: back into the queue; shards that are finished stay"
    return _array(batch, "mekrr-extract", _command(words), parts, remark)


def tune_script(batch: Batch, words: Sequence[str], parts: int) -> str:
    """An array of ``parts`` jobs in which every n-th candidate races; what was scored keeps its score.

    Args:
        words: the command and its arguments.

    Raises:
        ConfigError: fewer than one part.
    """
    if parts < 1:
        raise ConfigError(f"{parts} parts; give at least one")
    command = _command([*words, *batch.device(words)])
    return _array(batch, "mekrr-tune", command, parts, "at the time limit: back into the queue; what was scored stays")


def _array(batch: Batch, name: str, command: str, parts: int, remark: str) -> str:
    lines = [
        *batch.head(name, "%A_%a"),
        f"#SBATCH --array=1-{parts}",
        f"#SBATCH --cpus-per-task={batch.cpus}",
        *batch.body(),
        f"# {remark}",
        *_stopped_and_requeued(
            batch, f'{command} --part "$SLURM_ARRAY_TASK_ID/{parts}"', "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
        ),
    ]
    return "\n".join(lines) + "\n"


def finalize_script(batch: Batch, store: str) -> str:
    """The job that joins the parts, to be run after the array."""
    lines = [
        *batch.head("mekrr-finalize", on_gpu=False, notice=False),
        *batch.body(),
        _command(["store", "finalize", store]),
    ]
    return "\n".join(lines) + "\n"


def command_script(batch: Batch, words: Sequence[str], resumes: bool = True) -> str:
    """One command of the package as a job.

    Args:
        words: the command and its arguments.
        resumes: whether it goes on where it was when it is run again; then it is requeued at its time limit.
    """
    command = _command([*words, *batch.device(words)])
    lines = [
        *batch.head(f"mekrr-{words[0]}", notice=resumes),
        "#SBATCH --ntasks=1",
        f"#SBATCH --cpus-per-task={batch.cpus}",
        *batch.body(),
    ]
    if resumes:
        lines += ["# at the time limit: back into the queue; the command goes on from its state"]
        lines += _stopped_and_requeued(batch, command, "$SLURM_JOB_ID")
    else:
        lines.append(command)
    return "\n".join(lines) + "\n"


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
    words = ["fit", config, "--checkpoint", checkpoint, *options, *batch.device(options)]
    work = shlex.join(["-m", "mekrr_scale", *words])
    cores = batch.cpus * (ranks if launcher == "torchrun" else 1)
    srun = f"srun --kill-on-bad-exit=1 --cpus-per-task={cores}"  # which it does not take from the job by itself
    if launcher == "torchrun":
        tasks = ["#SBATCH --ntasks-per-node=1"]
        start = [
            'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            f'{srun} torchrun --nnodes="$SLURM_NNODES" --nproc-per-node={ranks} --max-restarts=3 \\',
            '    --rdzv-id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" --rdzv-backend=c10d \\',
            f'    --rdzv-endpoint="$head:$((20000 + SLURM_JOB_ID % 20000))" \\\n    {work} &',
        ]
    else:
        tasks = [f"#SBATCH --ntasks-per-node={ranks}"]
        start = [f"{srun} python {work} &"]
    folder = shlex.quote(checkpoint)
    lines = [
        *batch.head("mekrr-fit", ranks=ranks),
        f"#SBATCH --nodes={nodes}",
        *tasks,
        f"#SBATCH --cpus-per-task={cores}",
        *batch.body(),
        *batch.requeue(),
        "# before the time limit: ask all ranks to put their state away; what cannot in time is requeued as it is",
        "work=",
        "late=",
        "again() {",
        "    late=1",
        f"    mkdir -p {folder} && touch {folder}/stop",
        f'    for _ in $(seq {batch.notice - _MARGIN}); do kill -0 "$work" 2> /dev/null || return; sleep 1; done',
        "    requeue",
        "}",
        "trap again USR1",
        "# what an earlier run left says nothing about this one",
        f"rm -f {folder}/stop {folder}/stopped",
        *start,
        *_waited(),
        "# exit code 75: stopped with its state kept; torchrun hides it, and the file says the same",
        f'if [ "$code" -eq 75 ] || {{ [ "$code" -ne 0 ] && [ -e {folder}/stopped ]; }}; then requeue; fi',
        f'if [ "$code" -eq 0 ] && [ -n "$late" ]; then rm -f {folder}/stop; rmdir {folder} 2> /dev/null; fi',
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"


def _command(words: Sequence[str]) -> str:
    return shlex.join(["python", "-m", "mekrr_scale", *words])


def _waited() -> list[str]:
    """Wait for the work; a signal ends the first wait, and the second one has the work's own code."""
    return [
        "work=$!",
        '[ -z "$late" ] || again  # the notice came before there was anything to stop',
        'wait "$work"',
        "code=$?",
        'if [ -n "$late" ]; then wait "$work"; code=$?; fi',
    ]


def _stopped_and_requeued(batch: Batch, command: str, job: str) -> list[str]:
    """A command that is ended before the limit, and goes back into the queue if that is what ended it."""
    return [
        *batch.requeue(job),
        "work=",
        "late=",
        'again() { late=1; [ -z "$work" ] || kill -TERM "$work" 2> /dev/null; }',
        "trap again USR1",
        f"{command} &",
        *_waited(),
        "# 143: ended by SIGTERM; 75: stopped with its state kept",
        'if [ -n "$late" ] && { [ "$code" -eq 143 ] || [ "$code" -eq 75 ]; }; then requeue; fi',
        'exit "$code"',
    ]
