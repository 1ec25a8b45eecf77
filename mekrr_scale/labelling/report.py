"""What a labelling did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mekrr_scale.figures import Shown, TextTable
from mekrr_scale.structures import Reject

SCHEMA = "mekrr-scale label 1.0"  # of the JSON: keys may be added to it, not taken away
_NAMED = 3  # reasons that are shown


@dataclass(frozen=True, repr=False)
class LabelReport(Shown):
    """Which frames have labels now, and which have not."""

    output: Path
    labelled: int  # frames in the output
    resumed: int  # of which were labelled before
    failed: Sequence[Reject]  # in the order of the input

    @property
    def failed_file(self) -> Path | None:
        """The list of the frames without labels; None where all have them."""
        return failed_beside(self.output) if self.failed else None

    def headline(self) -> str:
        before = f", {self.resumed} of them before" if self.resumed else ""
        lost = f"; {len(self.failed)} failed: {self.failed_file}" if self.failed else ""
        return f"{self.output}: {self.labelled} frames labelled{before}{lost}"

    def tables(self) -> list[TextTable]:
        """Why frames failed."""
        reasons = Counter(reject.reason for reject in self.failed).most_common(_NAMED)
        rows = tuple((str(count), reason) for reason, count in reasons)
        return [TextTable("Failed", ("frames", "reason"), rows, left=(1,))] if rows else []

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it; ``index`` counts frames of the input from 0."""
        return {
            "schema": SCHEMA,
            "output": str(self.output),
            "labelled": self.labelled,
            "failed": [asdict(reject) for reject in self.failed],
        }


def failed_beside(output: Path) -> Path:
    """Where failed frames are listed."""
    return output.with_name(f"{output.name}.failed.json")
