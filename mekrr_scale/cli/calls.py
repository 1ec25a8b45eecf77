"""What holds for the calls of all commands: numbers that are numbers, and whether code in files is trusted."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Annotated, Any

import typer

from mekrr_scale.errors import ConfigError

TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="read checkpoints that hold code (MACE, metatomic) by running it; only for files from where you trust",
    ),
]


def guarded(callback: Callable[..., Any], trust: bool) -> Callable[..., Any]:
    """A command that looks at its numbers before it begins.

    Args:
        trust: it loads backbones, so that it gets ``--trust-code``.
    """
    own = inspect.signature(callback, eval_str=True)
    added = [inspect.Parameter("trust_code", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=TrustCode)]
    named = {name: _option(parameter) for name, parameter in own.parameters.items()}

    @wraps(callback)
    def run(**given: Any) -> Any:
        trusted = trust and given.pop("trust_code")
        for name, value in given.items():
            _check(named[name], name, value)
        if not trusted:
            return callback(**given)
        from mekrr_scale.backbones import trusting_code

        with trusting_code():
            return callback(**given)

    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *(added if trust else [])])  # type: ignore[attr-defined]
    run.guarded = True  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in run.__signature__.parameters.items()}  # type: ignore[attr-defined]
    return run


def is_guarded(callback: Callable[..., Any]) -> bool:
    """Whether a command has been through here."""
    return getattr(callback, "guarded", False)


def _check(option: str, name: str, value: object) -> None:
    """Refuse what no number of things, and no weight or length, can be.

    Raises:
        ConfigError: it is negative, or no finite number.
    """
    if isinstance(value, int) and value < 0:
        raise ConfigError(f"{option} {value}: give a number that is not negative")
    unbounded = name.startswith("max_") or name.endswith("interval")  # which may be infinite
    if isinstance(value, float) and not (math.isfinite(value) or (unbounded and value > 0)):
        raise ConfigError(f"{option} {value}: give a finite number")


def _option(parameter: inspect.Parameter) -> str:
    """How a parameter is given."""
    made: Iterable[Any] = getattr(parameter.annotation, "__metadata__", ())
    names = [name for info in made for name in getattr(info, "param_decls", None) or () if name.startswith("--")]
    return names[0] if names else f"--{parameter.name.replace('_', '-')}"
