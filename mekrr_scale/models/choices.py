"""Names that configurations choose among, and what the documents in files hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

BaselineKind = Literal["composition", "isolated", "backbone", "prior"]
WhiteningMethod = Literal["eigen", "cholesky"]
PriorKind = Literal["model", "backbone", "labels"]

if TYPE_CHECKING:
    JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None
else:
    JSON = object  # what checks at run time see of it: they do not follow a type that holds itself
Document: TypeAlias = Mapping[str, JSON]
