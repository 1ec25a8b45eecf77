"""Flags of ``fit`` from the fields of its plan: names, help and groups are defined there alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from mekrr_scale import solvers
from mekrr_scale.arrays import KINDS
from mekrr_scale.pipeline import FitPlan
from mekrr_scale.plans import Flag, fields_of, flag_of, sections

_PLAIN = (int, float, bool)


@dataclass(frozen=True)
class PlanOption:
    """A field of a plan as an option."""

    key: str  # dotted, as in TOML
    flag: Flag
    help: str
    type: type
    panel: str  # the group that help shows it in
    words: tuple[str, ...] = ()  # that a shell completes

    @property
    def parameter(self) -> str:
        """A name that Python allows."""
        return self.key.replace(".", "__")


def plan_options() -> list[PlanOption]:
    """Every field of the plan of a fit that has a flag."""
    found: dict[tuple[str, ...], PlanOption] = {}
    for option in _options():
        found.setdefault(option.flag.names, option)  # solvers share some
    return list(found.values())


def _options() -> Iterator[PlanOption]:
    for name, info, inner in sections(FitPlan):
        if name == "solver":
            yield _option(name, info, "solver", key="solver.name")
            for solver in solvers.SOLVERS.values():
                yield from _options_of(getattr(solvers, solver), name)
        elif inner is not None:
            yield from _options_of(inner, name)
            yield from _weights() if name == "rows" else ()
        elif flag_of(info):
            yield _option(name, info, "fit", key=name)


def _options_of(section: type, name: str) -> Iterator[PlanOption]:
    for field, info in fields_of(section).items():
        if flag_of(info):
            yield _option(field, info, name, key=f"{name}.{field}")


def _weights() -> Iterator[PlanOption]:
    """The weights of the kinds of rows, a flag for each."""
    for info in KINDS.values():
        text = f"candidates for the weight of {info.name} rows, e.g. 1e-3,1e-2; errors are of {info.about}"
        yield PlanOption(f"rows.weights.{info.name}", Flag((f"--{info.name}-weight",)), text, str, "rows")


def _option(name: str, info: FieldInfo, panel: str, key: str) -> PlanOption:
    given = flag_of(info)
    assert given is not None
    text = " ".join((info.description or name).split())
    if given.choices:
        text += f" Possible: {', '.join(given.choices)}."
    read = any(isinstance(item, BeforeValidator) for item in info.metadata)  # a size, a list: the plan reads the text
    made = str if read or info.annotation not in _PLAIN else info.annotation
    assert isinstance(made, type)
    return PlanOption(key, given, text, made, panel, given.choices or tuple(_literals(info.annotation)))


def _literals(annotation: object) -> Iterator[str]:
    """The words that a field may be."""
    for inner in get_args(annotation):
        if get_origin(annotation) is Literal:
            yield str(inner)
        else:
            yield from _literals(inner)


def _completion(words: Sequence[str]) -> Callable[[str], list[str]] | None:
    """For a shell; of several between commas the last is completed."""
    if not words:
        return None

    def complete(incomplete: str) -> list[str]:
        before, comma, begun = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in words if name.startswith(begun)]

    return complete


def with_plan_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose last parameter ``flags`` gets the options of the plan, by dotted key; None where not given."""
    own = inspect.signature(command, eval_str=True)
    options = plan_options()
    added = [
        inspect.Parameter(
            option.parameter,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                option.type | None,
                typer.Option(
                    *option.flag.names,
                    help=option.help,
                    rich_help_panel=f"Plan: {option.panel}",
                    autocompletion=_completion(option.words),
                ),
            ],
        )
        for option in options
    ]
    kept = [parameter for name, parameter in own.parameters.items() if name != "flags"]

    def run(**given: Any) -> None:
        flags: Mapping[str, object] = {option.key: given.pop(option.parameter) for option in options}
        command(**given, flags=flags)

    run.__doc__, run.__name__ = command.__doc__, command.__name__
    run.__signature__ = inspect.Signature([*kept, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*kept, *added)}
    return run
