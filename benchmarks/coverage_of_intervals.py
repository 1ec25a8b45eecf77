"""Do intervals hold what they say, for structures and for whole sets, and which sets are called unlike the training data?

Energies alone, CHGNet features, composition baseline, all else by default. Three splits of each data set: at random, by a
file of its own, by blocks of consecutive frames (water, whose neighbours are alike), or by facet, where sets must be told
from the training data. Then alarms: sets of 5 and 20 structures and all of them, drawn at random from what is held out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.data import Subset, store
from benchmarks.measuring import table
from mekrr_scale.pipeline import Evaluation, FitPlan, RowPlan, evaluate_store, fit

PLAN = FitPlan(baseline="composition", rows=RowPlan(derivatives=False))
RANDOM = ("pt_co/pt111_train", "hcoo_cu110/train", "mlearn/Si_train", "mlearn/Mo_train", "mlearn/Cu_train")
FILES = (("hcoo_cu110/train", "hcoo_cu110/val"), ("pt_co/pt111_train", "pt_co/pt111_val"))
BLOCKS = ("water_pbe0ts/train",)
FOREIGN = (("pt_co/pt111_train", "pt_co/pt553_val"),)
SPLITS = 3
HELD = 0.3
DRAWN = {5: 20, 20: 20}  # sets of so many structures: so many of each split
BLOCK = 16  # consecutive frames


@dataclass
class Alarms:
    """Sets, those that are called unlike, and those whose mean error is outside of its interval."""

    sets: int = 0
    unlike: int = 0
    outside: int = 0
    ratios: list[float] = field(default_factory=list)  # typical deviation of the set over the limit

    def add(self, found: Evaluation) -> None:
        whole = found.whole()
        if whole.sure is None or whole.shift is None:
            raise ValueError("a set without intervals")
        self.sets += 1
        self.unlike += whole.unlike is True
        self.outside += abs(whole.shift.mean) > whole.sure.mean_within_95
        self.ratios.append(whole.sure.deviation / whole.sure.limit)

    def row(self, name: str, structures: str) -> list[object]:
        most = round(max(self.ratios), 2)
        return [name, structures, self.sets, self.unlike, self.outside, round(float(np.median(self.ratios)), 2), most]


def main(names: Sequence[str] = (*RANDOM, *BLOCKS)) -> None:
    """Tables of coverage and of alarms."""
    covered: list[list[object]] = []
    alarms: list[list[object]] = []
    for name in names:
        counted = {str(size): Alarms() for size in [*DRAWN, "all"]}
        pooled: list[Evaluation] = []
        for seed, (fitted, held) in enumerate(splits(name)):
            model = fit(fitted.store, PLAN).model
            pooled.append(evaluate_store(model, held.store, uncertainty=True))
            counted["all"].add(pooled[-1])
            for size, count in DRAWN.items():
                for part in drawn(held, size, count, seed):
                    counted[str(size)].add(evaluate_store(model, part.store, uncertainty=True))
        covered.append([f"{name}, {'blocks' if name in BLOCKS else 'random'}", *coverage(pooled)])
        alarms += [found.row(name, size) for size, found in counted.items()]
        print(*covered[-1], *alarms[-3:], sep=" | ", flush=True)
    for train, test in (*FILES, *FOREIGN):
        if train in names:
            found = evaluate_store(fit(store(train), PLAN).model, store(test), uncertainty=True)
            covered.append([f"{train} on {test}", *coverage([found])])
            one = Alarms()
            one.add(found)
            alarms.append(one.row(f"{train} on {test}", "all"))
    table(["data", "structures", "within 68 %", "within 95 %"], covered)
    columns = ["sets of", "structures", "sets", "unlike", "mean error outside", "deviation / limit", "largest"]
    table(columns, alarms)


def splits(name: str) -> Iterator[tuple[Subset, Subset]]:
    """What is fitted and what is held out: at random, or blocks of consecutive frames."""
    data = Subset.of(store(name))
    for seed in range(SPLITS):
        label = f"coverage-{name.replace('/', '-')}-{seed}"
        if name not in BLOCKS:
            yield data.parts(HELD, seed, label)
            continue
        block = np.arange(len(data)) // BLOCK
        order = np.random.default_rng(seed).permutation(block[-1] + 1)
        away = np.isin(block, order[: round(HELD * len(order))])
        yield (
            data.take(np.flatnonzero(~away).tolist(), f"{label}-fit"),
            data.take(np.flatnonzero(away).tolist(), f"{label}-held"),
        )


def drawn(held: Subset, size: int, count: int, seed: int) -> Iterator[Subset]:
    """Random sets of what is held out."""
    generator = np.random.default_rng(seed)
    for _ in range(count if size < len(held) else 0):
        yield held.take(generator.permutation(len(held))[:size].tolist(), "coverage-drawn")


def coverage(found: Sequence[Evaluation]) -> list[object]:
    """Structures, and parts of their errors within the intervals, of several splits together."""
    sizes = np.array([len(one.energy) for one in found])
    parts = [one.coverage() for one in found]
    means = [float(np.average([part[key] for part in parts], weights=sizes)) for key in ("within_68", "within_95")]
    return [int(sizes.sum()), *(round(mean, 3) for mean in means)]


if __name__ == "__main__":
    main()
