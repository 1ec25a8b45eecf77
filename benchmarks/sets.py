"""The data sets that the study and the comparison with fine-tuning share, cut into frames to fit and frames to test.

The first frames of a random order are fitted, the last ones tested; several files take turns. Copies of a geometry, single
atoms and structures of more than 200 atoms are left out before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from benchmarks import kept
from benchmarks.data import apart, structures
from mekrr_scale.structures import geometry_hash, read_structures

_LARGEST = 200  # atoms
_SMALLEST = 2


@dataclass(frozen=True)
class DataSet:
    """Files of the development data.

    Args:
        tested: number of frames that no fit sees.
        test: a file of its own for them; without one the last of the random order.
        directions: along which forces are fitted, a structure: fewer where structures are large.
    """

    name: str
    files: tuple[str, ...]
    tested: int = 100
    test: str | None = None
    directions: int = 16

    def frames(self, count: int) -> Path:
        """The first frames of the random order."""
        return self._written(f"fit{count}", self._fitted()[:count], count)

    def test_frames(self) -> Path:
        """Those that no fit sees."""
        return self._written("test", self._held(), self.tested)

    def split(self, count: int, part: float = 0.12) -> tuple[Path, Path]:
        """The first frames in two: those to train a network on, and at least two for its validation."""
        held = max(2, round(part * count))
        chosen = self._fitted()[:count]
        learned = self._written(f"learn{count}", chosen[: count - held], count - held)
        return learned, self._written(f"valid{count}", chosen[count - held :], held)

    @property
    def most(self) -> int:
        """Frames that can be fitted."""
        return len(self._fitted())

    def identity(self) -> list[object]:
        """What the frames come from."""
        return [self.tested, *(kept.hashed(structures(file)) for file in self._sources())]

    def _sources(self) -> tuple[str, ...]:
        return self.files if self.test is None else (*self.files, self.test)

    def _fitted(self) -> list[Atoms]:
        whole = _ordered(tuple(map(structures, self.files)))
        if self.test is None:
            return whole[: -self.tested]
        held = {geometry_hash(atoms) for atoms in self._held()}
        return [atoms for atoms in whole if geometry_hash(atoms) not in held]

    def _held(self) -> list[Atoms]:
        if self.test is None:
            return _ordered(tuple(map(structures, self.files)))[-self.tested :]
        return _ordered((structures(self.test),))[: self.tested]

    def _written(self, name: str, chosen: list[Atoms], wanted: int) -> Path:
        if len(chosen) < wanted:
            raise ValueError(f"{self.name} has {len(chosen)} frames for {name}, not {wanted}")
        path = kept.folder() / f"frames-{self.name}-{key_of(self)}" / f"{name}.xyz"
        if not path.exists():
            apart(fitted=self._fitted(), tested=self._held())
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            ase.io.write(part, chosen, format="extxyz")
            part.rename(path)
        return path


def key_of(data: DataSet) -> str:
    """Of the frames: their files, whatever the code."""
    from benchmarks.records import key

    return key({"frames": 2, "from": data.identity(), "sizes": [_SMALLEST, _LARGEST]})


@cache
def _ordered(paths: tuple[Path, ...]) -> list[Atoms]:
    """Frames of all files in a random order, in which the files take turns."""
    turns = list(chain.from_iterable(zip_longest(*map(_shuffled, paths))))
    return [atoms for atoms in turns if atoms is not None]


def _shuffled(path: Path) -> Sequence[Atoms]:
    found = list(read_structures(path))
    order = np.random.default_rng(0).permutation(len(found))
    seen: set[int] = set()
    chosen = []
    for atoms in (found[i] for i in order):
        if _SMALLEST <= len(atoms) <= _LARGEST and (name := geometry_hash(atoms)) not in seen:
            seen.add(name)
            chosen.append(atoms)
    return chosen


SETS = {
    data.name: data
    for data in (
        DataSet("3bpa", ("mol_3bpa/train_300K.xyz.xz",), directions=40),
        DataSet("hcoo", ("hcoo_cu110/train.xyz.xz",), tested=60, test="hcoo_cu110/val.xyz.xz"),
        DataSet("si", ("mlearn/Si_train.xyz.xz",), tested=60),
        DataSet("mo", ("mlearn/Mo_train.xyz.xz",), tested=80),
        DataSet("cu", ("mlearn/Cu_train.xyz.xz",), tested=60),
        DataSet("acac", ("mol_acac/train_300K.xyz.xz",), directions=30),
        DataSet("ethanol", ("mol_ethanol/ccsdt_train.xyz.xz",), directions=20),
        DataSet(
            "monbtaw",
            (
                "monbtaw/binaries_train.xyz.xz",
                *(f"monbtaw/{element}_train.xyz.xz" for element in ("Mo", "Nb", "Ta", "W")),
            ),
            tested=60,
        ),
        DataSet("wbe", tuple(f"w_be/{which}_train.xyz.xz" for which in ("WBe", "W", "Be")), tested=60),
        DataSet("ptco", ("pt_co/pt111_train.xyz.xz", "pt_co/pt553_train.xyz.xz"), tested=30, directions=8),
        DataSet("water", ("water_pbe0ts/train.xyz.xz",), tested=20, directions=8),
    )
}
