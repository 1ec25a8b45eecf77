"""Names that configurations choose among."""

from typing import Literal

Balance = Literal["proportional", "sqrt", "equal"]  # shares of species by atoms, their square roots, or alike
