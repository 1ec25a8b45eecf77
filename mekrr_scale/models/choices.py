"""Names that configurations choose among, and what the documents in files hold."""

from __future__ import annotations

from typing import Literal

from mekrr_scale.files import JSON, Document

__all__ = ["JSON", "BaselineKind", "Document", "PriorKind", "WhiteningMethod"]
BaselineKind = Literal["composition", "isolated", "backbone", "prior"]
WhiteningMethod = Literal["eigen", "cholesky"]
PriorKind = Literal["model", "backbone", "labels"]
