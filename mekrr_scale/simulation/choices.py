"""Names that options choose among; imported without torch."""

from typing import Literal

Ensemble = Literal["nve", "langevin", "npt"]
SelectionMethod = Literal["greedy", "variance", "random"]
