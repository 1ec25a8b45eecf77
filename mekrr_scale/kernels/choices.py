"""Names that configurations choose among."""

from typing import Literal

Reduce = Literal["sum", "mean"]
Standardize = Literal["none", "centre", "centre-per-species", "scale", "scale-per-species"]
