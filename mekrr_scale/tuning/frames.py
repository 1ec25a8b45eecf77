"""The frames of a tuning: each once, a part held out, and an order whose beginnings are the subsets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from mekrr_scale.errors import MekrrError, StructureError
from mekrr_scale.structures import (
    Frames,
    Inputs,
    LabelKeys,
    Survey,
    Unreadable,
    check_structure,
    geometry_hash,
    read_labels,
    read_weights,
    structure_hash,
)
from mekrr_scale.tuning.plan import TunePlan

_BLOCKS = 20  # of consecutive frames, of which some are held out
_FEWEST = 40  # frames of which some can be spared
_SAME = 1e-6  # eV/atom
_SEEN = 2  # frames of an element that come first


@dataclass(frozen=True)
class Data:
    """What a tuning works on."""

    training: Sequence[Atoms]  # in the order in which they are taken
    test: Sequence[Atoms]
    survey: Survey
    remarks: Sequence[str]

    @property
    def with_forces(self) -> bool:
        return bool(self.survey.found["forces"])

    @property
    def with_stress(self) -> bool:
        """Whether most frames have one."""
        return 2 * self.survey.found["stress"] > self.survey.frames

    @property
    def keys(self) -> LabelKeys:
        return self.survey.settled

    @property
    def elements(self) -> list[str]:
        return sorted({str(symbol) for atoms in self.training for symbol in atoms.symbols})

    @property
    def middle(self) -> Atoms:
        """A frame of the middle size."""
        usual = [atoms for atoms in self.training if len(atoms) > 1] or list(self.training)
        return sorted(usual, key=len)[len(usual) // 2]

    def content(self, atoms: Atoms) -> Sequence[object]:
        """All of a frame that shapes a model: geometry, labels, weights and trajectory."""
        labels = read_labels(atoms, self.keys, ())
        try:
            read = read_weights(atoms)
            weights: object = (read.kinds, read.config, read.atoms is not None and read.atoms.tolist())
        except StructureError as error:
            weights = str(error)
        return structure_hash(atoms, labels), weights, self.survey.group_key and atoms.info.get(self.survey.group_key)


def gathered(structures: Frames, test: Frames | None, plan: TunePlan) -> Data:
    """Usable frames of the training and test files.

    Raises:
        StructureError: a file that cannot be read, no frame that can be used, labels that contradict each other, or
            charges or spins that differ.
    """
    survey = Survey(plan.keys, plan.group_key)
    frames = _usable(structures, plan, survey)
    survey.check()
    remarks = list(survey.remarks())
    if survey.unreadable:
        remarks.append(f"{survey.unreadable} frames cannot be read: they are left out")
    single, copies = _once(frames.kept, survey.settled, plan)
    if copies:
        remarks.append(f"{copies} copies of frames are left out: the same geometry with the same labels counts once")
    remarks += frames.reasons()
    if test is not None:
        held = _usable(test, plan, Survey(plan.keys, electrons=survey.electrons))
        remarks += [f"test set: {line}" for line in held.reasons()]
        own, known = list(held.kept), {geometry_hash(atoms) for atoms in held.kept}
        apart = [atoms for atoms in single if geometry_hash(atoms) not in known]
        if len(apart) < len(single):
            remarks.append(f"{len(single) - len(apart)} training frames stand in the test set, too: they are left out")
        training = apart
    else:
        training, own, how = _held_out(single, plan)
        remarks += [how] if how else []
    survey.electrons.document(frozenset(), plan.ignore_charge)  # refused now, and not when the time is over
    if not training:
        raise StructureError("no frame is left to learn from; give frames with energies")
    return Data(_ordered(training, plan.seed), own, survey, remarks)


@dataclass
class _Usable:
    kept: list[Atoms]
    rejected: Counter[str]

    def reasons(self) -> list[str]:
        return [f"{count} frames are left out: {reason}" for reason, count in self.rejected.most_common(3)]


def _usable(structures: Frames, plan: TunePlan, survey: Survey) -> _Usable:
    """Frames with a usable energy, which the survey has looked at."""
    source = Inputs.of(structures, plan.format)
    read = list(source)
    for atoms in read:
        survey.look(atoms)
    found = _Usable([], Counter())
    for atoms in read:
        if isinstance(atoms, Unreadable):
            continue
        try:
            check_structure(atoms, read_labels(atoms, survey.settled, ("energy", "forces")))
        except MekrrError as error:
            found.rejected[str(error)] += 1
            continue
        found.kept.append(atoms)
    if not found.kept:
        reason = found.rejected.most_common(1)[0][0] if found.rejected else "the file is empty"
        raise StructureError(f"no frame of {source.name} can be used: {reason}")
    return found


def _once(frames: Sequence[Atoms], keys: LabelKeys, plan: TunePlan) -> tuple[list[Atoms], int]:
    """Each geometry once, and how many copies were left out.

    Raises:
        StructureError: two energies of one geometry, and nothing that says which counts.
    """
    last: dict[int, Atoms] = {}
    for place, atoms in enumerate(frames):
        known = geometry_hash(atoms)
        before = last.get(known)
        if before is not None and plan.on_duplicate == "error":
            was, now = (float(read_labels(item, keys).energy or 0.0) for item in (before, atoms))
            if abs(was - now) > _SAME * len(atoms):
                raise StructureError(
                    f"frame {place}: its geometry stands in the data twice, with energies {was} and {now}; remove the "
                    "wrong one, or pass --on-duplicate newest"
                )
        last[known] = atoms
    return list(last.values()), len(frames) - len(last)


def _held_out(frames: Sequence[Atoms], plan: TunePlan) -> tuple[list[Atoms], list[Atoms], str]:
    """Training frames, held-out ones, and how they were chosen.

    Trajectories stay whole where a group key names them; else blocks of consecutive frames are held out, since
    neighbours in a trajectory are nearly copies. For frames in random order a block is a random choice.
    """
    if not plan.test_share or len(frames) < _FEWEST:
        return list(frames), [], ""
    named = [str(atoms.info[plan.group_key]) if plan.group_key in atoms.info else "" for atoms in frames]
    grouped = plan.group_key is not None and len(set(named)) > _BLOCKS // 4
    size = -(-len(frames) // _BLOCKS)
    of = named if grouped else [str(i // size) for i in range(len(frames))]
    lone = [_isolated(atoms) for atoms in frames]
    some = {name for name, out in zip(of, lone, strict=True) if not out}
    order = np.random.default_rng([plan.seed, 1]).permutation(sorted(set(of))).tolist()
    names = [name for name in order if name in some]
    counts, held, total = Counter(of), set(), 0
    for name in names:
        if total + counts[name] <= max(plan.test_share * len(frames), size):
            held.add(name)
            total += counts[name]
    if names and not held:  # none is as small as the share
        held = {min(names, key=lambda name: counts[name])}
    kept = [out or name not in held for out, name in zip(lone, of, strict=True)]
    test = [atoms for atoms, keep in zip(frames, kept, strict=True) if not keep]
    training = [atoms for atoms, keep in zip(frames, kept, strict=True) if keep]
    what = f"trajectories ({plan.group_key})" if grouped else "blocks of consecutive frames"
    return training, test, f"{len(test)} of {len(frames)} frames are held out for the test, in whole {what}"


def _ordered(frames: Sequence[Atoms], seed: int) -> list[Atoms]:
    """A random order in which isolated atoms, and some frames of each element, come first."""
    order = np.random.default_rng([seed, 0]).permutation(len(frames)).tolist()
    counts: Counter[int] = Counter()
    first: list[int] = []
    later: list[int] = []
    for i in order:
        numbers = set(frames[i].numbers.tolist())
        rare = any(counts[z] < _SEEN for z in numbers)
        (first if rare or _isolated(frames[i]) else later).append(i)
        counts.update(numbers)
    first.sort(key=lambda i: not _isolated(frames[i]))
    return [frames[i] for i in (*first, *later)]


def _isolated(atoms: Atoms) -> bool:
    return len(atoms) == 1 and not atoms.pbc.any()


def label_table(data: Data) -> list[tuple[str, str]]:
    """What there is, in words, for a table."""
    survey = data.survey
    sizes = [len(atoms) for atoms in data.training]
    rows = [
        ("frames to learn from", str(len(data.training))),
        ("frames of the test", str(len(data.test)) if data.test else "none: errors are of the cross-validation"),
        ("atoms a frame", f"{min(sizes)} to {max(sizes)}"),
        ("elements", " ".join(sorted(data.elements, key=chemical_symbols.index))),
    ]
    return [*rows, *((f"frames with {kind}", str(survey.found[kind])) for kind in ("energy", "forces", "stress"))]
