"""The run-time type checker of the tests, for the annotations of ``mekrr_scale`` with their shapes.

An int is welcome where a float is asked for (PEP 484). Only the first calls of a function in each test are looked at: a
check takes longer than many a function, and all of them would more than double the time of the tests.
"""

from __future__ import annotations

import functools
from collections import Counter
from types import CodeType, FunctionType
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

CHECKED_CALLS = 16
calls: Counter[CodeType] = Counter()
"""Of this test; conftest.py empties it."""

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
always = jaxtyping.jaxtyped


def jaxtyped(fn: Any = None, *, typechecker: Any) -> Any:
    """As jaxtyping's own, which its import hook puts on every function and class."""
    if fn is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if not isinstance(fn, FunctionType):
        return always(fn, typechecker=typechecker)
    code = fn.__code__
    if "<locals>" in fn.__qualname__:  # made anew in every call of the one around it
        if calls[code] >= CHECKED_CALLS:
            return fn
        calls[code] += 1
    # at once, though many are never called: a test may exchange a name that stands in an annotation
    checked = always(fn, typechecker=typechecker)

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if calls[code] >= CHECKED_CALLS:
            return fn(*args, **kwargs)
        calls[code] += 1
        return checked(*args, **kwargs)

    return wrapped


jaxtyping.jaxtyped = jaxtyped  # type: ignore[assignment]
