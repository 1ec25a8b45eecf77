"""How plans are written: frozen, checked, documented field by field, and the same in Python, TOML and flags.

A plan is a pydantic dataclass. The sentence under a field says what it means, its unit and when to change it; the
documentation and ``--help`` show it. Whatever a person would write is accepted: ``"2x,4x"`` or ``"2x"`` for a list of
length scales or an array of them, ``"2G"`` for a size, the name of a solver for the solver. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Protocol,
    Self,
    TypeVar,
    dataclass_transform,
    overload,
    runtime_checkable,
)

import pydantic
import pydantic.dataclasses
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from mekrr_scale.errors import ConfigError, MekrrError, suggestion, unexpected

T = TypeVar("T")
Kept_co = TypeVar("Kept_co", covariant=True)
Written_contra = TypeVar("Written_contra", contravariant=True)
_CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Flag:
    """How a field is given on the command line.

    Args:
        names: of the option, with dashes.
        choices: what it may be, shown in the help.
    """

    names: tuple[str, ...]
    choices: tuple[str, ...] = ()


class Given(Generic[Kept_co, Written_contra]):
    """The type of a field that people write otherwise than it is kept: ``Given[tuple[float, ...], Numbers]``.

    For type checkers a descriptor, whose ``__set__`` says what the class takes; when the program runs, the first of the
    two. Its default comes from ``preset``.
    """

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: object) -> Self: ...
        @overload
        def __get__(self, instance: object, owner: object) -> Kept_co: ...
        def __get__(self, instance: object, owner: object) -> object: ...
        def __set__(self, instance: object, value: Kept_co | Written_contra) -> None: ...

    else:

        def __class_getitem__(cls, types: tuple[Any, Any]) -> Any:
            return types[0]


def preset(default: Any = ..., **limits: Any) -> Any:
    """``pydantic.Field`` of a field that is ``Given``.

    Args:
        default: as it is kept.
        limits: other arguments of ``pydantic.Field``, ``default_factory`` and ``ge`` among them.
    """
    return Field(**limits) if default is ... else Field(default=default, **limits)


def plan_of(given: T | None, kind: type[T]) -> T:
    """The plan that was given, or the kind's default.

    Raises:
        ConfigError: it is none of the kind.
    """
    if given is None:
        return kind()
    if isinstance(given, kind):
        return given
    raise ConfigError(f"{unexpected(given, f'a plan of the kind {kind.__name__}')}: {given!r}")


@runtime_checkable
class Array(Protocol):
    """What holds numbers as numpy, torch and pandas do."""

    def tolist(self) -> Any: ...


# what people write for candidates
Numbers = float | str | Sequence[float] | Array


@dataclass_transform(frozen_default=True, field_specifiers=(Field, dataclasses.field, preset))
def plan(cls: type[T]) -> type[T]:
    """Make a class a plan.

    Raises (the class, when it is called):
        ConfigError: an unknown field (the closest is named), or a value that cannot be used.
    """
    made = pydantic.dataclasses.dataclass(cls, frozen=True, config=_CONFIG)
    for name, info in fields_of(made).items():
        if info.description is None:  # pydantic reads the sentences under a class's own fields alone
            bases = (vars(base).get("__pydantic_fields__", {}) for base in made.__mro__[1:])
            info.description = next((base[name].description for base in bases if name in base), None)
    checked = made.__init__

    def __init__(self: Any, *args: Any, **given: Any) -> None:  # noqa: N807  it becomes the class's
        try:
            checked(self, *map(_listed, args), **{name: _listed(value) for name, value in given.items()})
        except ValidationError as error:
            raise _explained(error, made) from error

    made.__init__ = functools.wraps(checked)(__init__)  # type: ignore[method-assign]
    return typing.cast("type[T]", made)


def _listed(value: Any) -> Any:
    """Arrays as lists of Python's numbers, by name too; all else as it is."""
    if type(value) is dict:
        return {key: _listed(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, Array) else value


def flag(*names: str, choices: Iterable[str] = ()) -> Flag:
    """Metadata of a field: ``Annotated[int, flag("--landmarks")]``."""
    return Flag(names, tuple(choices))


def listed(convert: Callable[[Any], Any]) -> BeforeValidator:
    """A tuple from one value, several, or a text that separates them by commas; None is the field's to take."""
    return BeforeValidator(lambda value: None if value is None else split(value, convert))


def split(value: Any, convert: Callable[[Any], T]) -> tuple[T, ...]:
    """The same of a value.

    Raises:
        ConfigError: what is no number, where numbers are asked for.
    """
    given = value if isinstance(value, Sequence) else [value]
    if isinstance(value, str):
        given = [piece.strip() for piece in value.split(",") if piece.strip()]
    try:
        return tuple(convert(item) for item in given)
    except MekrrError:
        raise
    except (TypeError, ValueError):
        raise ConfigError(f"{value!r}: write numbers, several separated by commas, e.g. 1e-8,1e-6") from None


def fields_of(cls: type) -> dict[str, FieldInfo]:
    """A plan's fields, with descriptions, defaults and types."""
    found: dict[str, FieldInfo] = cls.__pydantic_fields__  # type: ignore[attr-defined]
    return found


def flag_of(info: FieldInfo) -> Flag | None:
    """How a field is given on the command line, if it is."""
    return next((item for item in info.metadata if isinstance(item, Flag)), None)


def to_dict(value: object) -> dict[str, object]:
    """A plan as plain values, with its default values: what TOML or JSON hold."""
    found = _plain(value)
    assert isinstance(found, dict)
    return found


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value).__str__ is not object.__str__:  # a value with a text of its own, such as 4x
            return str(value)
        found = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        name = getattr(type(value), "name", None)  # of what stands in a registry
        return found if name is None or "name" in found else {"name": name, **found}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | types.NoneType) else str(value)


def _explained(error: ValidationError, cls: type) -> MekrrError:
    """The first thing that is wrong, in words for a person."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, MekrrError):
        return cause
    place, *inside = first["loc"] or ("",)
    fields = list(fields_of(cls))
    known = fields[place] if isinstance(place, int) and place < len(fields) else place  # given by position
    where = [str(part) for part in (known, *inside) if not str(part).startswith("function-")]
    name = ".".join(where)
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return ConfigError(f"{cls.__name__} has no field {name!r}. {suggestion(where[-1], fields_of(cls))}")
    if first["type"] in ("missing", "missing_argument"):
        return ConfigError(f"{cls.__name__}: {name!r} is missing; give it")
    text = first["msg"].removeprefix("Value error, ")
    if "could not convert string to float" in text:
        text = "write numbers separated by commas, e.g. 0.1,1e-4"
    return ConfigError(f"{cls.__name__}.{name}: {text} (got {first['input']!r})")


def sections(cls: type) -> Iterator[tuple[str, FieldInfo, type | None]]:
    """A plan's fields, each with its class where it is a plan of its own."""
    for name, info in fields_of(cls).items():
        inner = info.annotation
        yield name, info, inner if isinstance(inner, type) and hasattr(inner, "__pydantic_fields__") else None
