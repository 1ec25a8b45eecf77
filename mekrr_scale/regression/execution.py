"""How a fit runs, and not what it computes. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from mekrr_scale.errors import ConfigError
from mekrr_scale.files import default_scratch, parse_bytes
from mekrr_scale.plans import Given, flag, plan, preset


def _folder(value: Any) -> Any:
    if isinstance(value, str):
        return None if value.lower() == "none" else Path(value)
    return value


def _size(value: Any) -> Any:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return parse_bytes(value)
    raise ConfigError(f"{value!r} is not a size; write 512M or 2G")


@plan
class Execution:
    """Where rows and solvers run, and what they may take of the machine."""

    device: Annotated[str, flag("--device")] = "cpu"
    """torch device of rows and solvers, e.g. cpu or cuda."""

    memory: Annotated[Given[int, str], BeforeValidator(_size), flag("--memory")] = preset(default=2 * 1024**3)
    """Memory of each rank for rows that are kept, e.g. 2G. Rows that do not fit go to the scratch folder (falkon) or
    are made anew in every pass."""

    scratch: Annotated[Given[Path | None, str], BeforeValidator(_folder), flag("--scratch")] = preset(
        default_factory=default_scratch
    )
    """Folder for rows beyond that, by default the job's own on the node; none: make them anew in every pass."""
