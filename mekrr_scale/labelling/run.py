"""The run of a labelling: frames in order, side by side in processes, each result kept at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr_scale.backbones import trusting_code
from mekrr_scale.errors import ConfigError, MekrrError, StructureError
from mekrr_scale.files import locked, publish_text
from mekrr_scale.labelling.calculators import CalculatorSpec
from mekrr_scale.labelling.journal import LabelJournal, journal_beside
from mekrr_scale.labelling.report import LabelReport, failed_beside
from mekrr_scale.outputs import FRAMES, check_output
from mekrr_scale.pipeline import Workers, processes
from mekrr_scale.progress import Progress, shown_progress
from mekrr_scale.structures import (
    Frames,
    Inputs,
    LabelKeys,
    Labels,
    Reject,
    check_structure,
    read_labels,
    volume_of,
    without_results,
    write_structures,
)

_NONE = Labels(None, None, None)
_SAME_ENERGY, _SAME_FORCES = 1e-4, 1e-2  # eV/atom, eV/angstrom: by which a calculation that is repeated may differ
_SEVERAL = 1_000_000  # frames, where their number is not known


def label(
    structures: Frames,
    output: Path | str,
    calculator: CalculatorSpec | BaseCalculator | str,
    workers: int | None = None,
    reuse: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    format: str | None = None,
    trust_code: bool = False,
) -> LabelReport:
    """Energies, forces and stress of frames by a calculator, written as labels that ``extract`` reads.

    The output holds the frames in their order, with what they carried (tags, info, constraints) but older results.
    Those that fail are left out and listed in ``<output>.failed.json``. Every result is kept beside the output until
    all are there (``<output>.labels.jsonl``): the same call after a kill goes on, and ends with the same file to the
    bit (a ``.db`` but for its times); called again after failures it tries these again. Where the calculator is an
    instance, or made of a file, one frame is first labelled again, to see that it is the calculator of before.

    Args:
        calculator: as a text (``"emt"``, ``"tblite(method='GFN2-xTB')"``, ``"module:Class(arg=1)"``,
            ``"backbone:chgnet"``), or an instance, which is then taken for all frames.
        workers: processes side by side; by default one for each core that may be used.
        reuse: one calculator for all frames of a process, where making one takes long. By default each frame has a
            new one, so that its labels do not depend on the frames before it.
        overwrite: replace an output, or results, that are another labelling's; the same labelling still goes on.
        format: ASE's name of the files' format, where their names do not tell.
        trust_code: checkpoints that hold code are from where you trust.

    Raises:
        ConfigError: no such calculator; the output is there already, or another labelling's.
        StructureError: a file that cannot be read, or no frame could be labelled.
    """
    path = Path(output)
    check_output(path, FRAMES, overwrite or journal_beside(path).exists())
    with shown_progress(progress) as shown, trusting_code(trust_code):
        spec = CalculatorSpec.parse(calculator) if isinstance(calculator, str) else calculator
        made = spec.make() if isinstance(spec, CalculatorSpec) else spec
        kept = reuse or not isinstance(spec, CalculatorSpec) or spec.shared
        labeller = _Labeller(spec, made if kept else None)
        source = Inputs.of(structures, format)
        journal = LabelJournal(path, {"calculator": labeller.name, "frames": source.calculated})
        with locked(journal.path):
            journal.begin(overwrite)
            if journal.places and labeller.may_be_another:
                _require_the_same(source, labeller, journal, overwrite)
            return _labelled(source, labeller, journal, workers, shown)


@final
@dataclass
class _Labeller:
    """Labels one frame after the other, in whatever process it is."""

    spec: CalculatorSpec | BaseCalculator
    kept: BaseCalculator | None  # for all frames

    @property
    def name(self) -> str:
        """For the journal and the frames."""
        if isinstance(self.spec, CalculatorSpec):
            return self.spec.text
        given = json.dumps(getattr(self.spec, "parameters", {}), default=str, sort_keys=True)
        return f"{type(self.spec).__module__}:{type(self.spec).__name__}{given}"

    @property
    def may_be_another(self) -> bool:
        """Whether one of the same name may give other labels: an instance whose parts have no names, another file."""
        return not isinstance(self.spec, CalculatorSpec) or self.spec.reads_files

    def __call__(self, item: tuple[int, Atoms]) -> dict[str, Any]:
        """Results as JSON holds them, or the reason why there are none."""
        _, atoms = item
        try:
            read_labels(atoms, LabelKeys(), ())  # refuses what could not be read
            check_structure(atoms, _NONE, need_energy=False)
            calculator = self.spec.make() if self.kept is None and isinstance(self.spec, CalculatorSpec) else self.kept
            return _results(atoms, calculator)
        except MekrrError as error:
            return {"reason": str(error)}
        except Exception as error:  # whatever a calculator says of a frame
            return {"reason": f"{type(error).__name__}: {error}"}


def _results(atoms: Atoms, calculator: BaseCalculator | None) -> dict[str, Any]:
    """What the calculator says of a frame; a property that it has not is left out.

    Raises:
        StructureError: something is not finite.
    """
    frame = atoms.copy()
    frame.calc = calculator
    found: dict[str, Any] = {"energy": float(frame.get_potential_energy(apply_constraint=False))}
    free = getattr(calculator, "results", {}).get("free_energy")
    if free is not None:
        found["free_energy"] = float(free)
    with suppress(PropertyNotImplementedError):
        found["forces"] = np.asarray(frame.get_forces(apply_constraint=False), dtype=np.float64).tolist()
    if not np.isnan(volume_of(frame)):
        with suppress(PropertyNotImplementedError, NotImplementedError):
            found["stress"] = np.asarray(frame.get_stress(apply_constraint=False), dtype=np.float64).tolist()
    for name, value in found.items():
        if not np.isfinite(value).all():
            raise StructureError(f"{name} not finite (NaN or infinite)")
    return found


def _require_the_same(source: Inputs, labeller: _Labeller, journal: LabelJournal, anew: bool) -> None:
    """Label one of the frames in the journal again: a calculator does not tell all that it is made of.

    Args:
        anew: throw the results of another one away.

    Raises:
        ConfigError: the results are another calculator's.
    """
    index = sorted(journal.places)[len(journal.places) // 2]  # the first frames may be isolated atoms
    item = next(item for item in _numbered(source, []) if item[0] == index)
    before, now = journal.result(index), labeller(item)
    if "reason" in now:  # which says nothing of those of before
        return
    off = abs(now["energy"] - before["energy"]) / len(item[1])
    turned = np.abs(np.subtract(now.get("forces", 0.0), before.get("forces", 0.0))).max()
    if off < _SAME_ENERGY and turned < _SAME_FORCES:
        return
    if not anew:
        raise ConfigError(
            f"{journal.path} is of another calculator: frame {index} has {before['energy']:.6f} eV there and "
            f"{now['energy']:.6f} eV now, with forces up to {turned:.2g} eV/angstrom apart; name another output, or "
            "begin anew with --overwrite"
        )
    journal.empty()


def _labelled(
    source: Inputs, labeller: _Labeller, journal: LabelJournal, workers: int | None, progress: Progress
) -> LabelReport:
    count = source.count()
    progress.stage("label", count)
    resumed = len(journal.places)
    progress.advance(resumed)
    failed: list[Reject] = []
    names: list[str] = []
    many = processes(workers, "cpu", max(0, (_SEVERAL if count is None else count) - resumed))
    left = (
        (index, atoms) for index, atoms in _numbered(source, names) if index not in journal.places
    )  # in order, as they are asked for
    with Workers(labeller, many) as pool, closing(left):
        for (index, _), result in pool.each(left):
            journal.add(index, result)
            if "reason" in result:
                failed.append(Reject(names[index], index, str(result["reason"])))
            progress.advance()
    return _published(source, labeller, journal, failed, resumed)


def _numbered(source: Inputs, names: list[str]) -> Iterator[tuple[int, Atoms]]:
    """Frames with their places; names of their files are noted on the way."""
    for index, (name, atoms) in enumerate(source.named()):
        names.append(Path(name).name)
        plain = copy(atoms)  # the caller's keep their calculator
        plain.calc = None  # results of before, and nothing that a process could not be sent
        yield index, plain


def _published(
    source: Inputs, labeller: _Labeller, journal: LabelJournal, failed: list[Reject], resumed: int
) -> LabelReport:
    """Write what was found, and what was not."""
    output = journal.output
    if not journal.places:
        first = f"; the first: {failed[0].reason}" if failed else ""
        raise StructureError(f"none of {len(failed)} frames could be labelled by {labeller.name}{first}")

    def frames() -> Iterator[Atoms]:
        for index, (_, atoms) in enumerate(source.named()):
            if index in journal.places:
                frame = without_results(atoms)
                found = journal.result(index)
                frame.calc = SinglePointCalculator(frame, **{k: _array(v) for k, v in found.items() if k != "index"})
                frame.info["labelled_by"] = labeller.name
                yield frame

    report = LabelReport(output, write_structures(output, frames()), resumed, tuple(failed))
    if failed:
        publish_text(failed_beside(output), json.dumps(report.to_dict(), indent=2))
    else:
        failed_beside(output).unlink(missing_ok=True)
        journal.remove()
    return report


def _array(value: Any) -> Any:
    return np.array(value) if isinstance(value, list) else value
