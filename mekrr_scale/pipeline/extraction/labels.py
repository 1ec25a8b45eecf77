"""Labels of an extraction, before its work: what there is, which rows it gives, and which energy the store holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from mekrr_scale.errors import StructureError
from mekrr_scale.pipeline.extraction.plan import ExtractPlan
from mekrr_scale.progress import Progress
from mekrr_scale.store import define_energy, energy_definition
from mekrr_scale.structures import Inputs, Kind, Survey


def survey_of(source: Inputs, plan: ExtractPlan, progress: Progress) -> Survey:
    """The labels of all frames.

    Raises:
        StructureError: keys that no frame has; directions are asked for, and no frame has labels along them.
    """
    survey = Survey(plan.keys, plan.group_key)
    for atoms in source:
        survey.look(atoms)
        progress.advance()
    survey.check()
    asked: list[tuple[Kind, str, bool]] = [
        ("forces", f"--derivatives {plan.derivatives}", plan.derivatives != "none"),
        ("stress", "--strain", plan.strain),
    ]
    for kind, option, wanted in asked:
        harmless = kind == "stress" and not survey.hint(kind) and not survey.unusable[kind]  # the table says so
        if wanted and not harmless and survey.frames > survey.unreadable and not survey.found[kind]:
            where = survey.hint(kind) or f"name their key with --{kind}-key, or leave {option} out"
            raise StructureError(f"{option}: no frame has usable {kind} to train on; {where}")
    return survey


def label_lines(survey: Survey, plan: ExtractPlan) -> Iterator[str]:
    """A table: labels found, the rows that they give, what is ignored and why."""
    yield f"labels of {survey.frames} frames:"
    every: Mapping[Kind, str] = {
        "energy": _energy_rows(survey, plan),
        "forces": _force_rows(survey, plan),
        "stress": _stress_rows(survey, plan),
    }
    for kind, rows in every.items():
        key = plan.keys.of(kind)
        found = f"{survey.found[kind]} frames" + (f" ({key})" if key else "")
        more = [rows] if rows else []
        if survey.unusable[kind]:
            more.append(f"{survey.unusable[kind]} not usable")
        if not survey.found[kind] and survey.hint(kind):
            more.append(survey.hint(kind))
        yield f"  {kind:8}{found:24}{'; '.join(more)}".rstrip()
    if survey.unreadable:
        yield f"  {survey.unreadable} frames cannot be read: they are rejected"


def _energy_rows(survey: Survey, plan: ExtractPlan) -> str:
    lacking = survey.frames - survey.unreadable - survey.found["energy"] - survey.unusable["energy"]
    rows = f"{survey.found['energy']} energy rows"
    if not lacking:
        return rows
    return f"{rows}; {lacking} without: {'rejected (--unlabelled takes them)' if plan.need_energy else 'taken'}"


def _force_rows(survey: Survey, plan: ExtractPlan) -> str:
    if not survey.found["forces"]:
        return ""
    if plan.derivatives == "none":
        return "ignored; to train on them: --derivatives 8, or all"
    most = plan.derivatives
    rows = sum(count * (3 * n if most == "all" else min(int(most), 3 * n)) for n, count in survey.sizes.items())
    return f"{rows} force rows"


def _stress_rows(survey: Survey, plan: ExtractPlan) -> str:
    if not survey.found["stress"]:
        return "--strain changes nothing" if plan.strain else ""
    taken = "as -virial/volume, " if plan.keys.virial else ""
    if not plan.strain:
        return f"{taken}ignored; to train on it: --strain"
    return f"{taken}{6 * survey.found['stress']} stress rows"


def one_energy(folder: Path, survey: Survey) -> None:
    """Remember which of ASE's energies a store holds, and refuse another one.

    Raises:
        StructureError: the store holds the other one.
    """
    name = survey.energy_name
    if name is None:
        return
    before = energy_definition(folder)
    if before is None:
        define_energy(folder, name)
    elif before != name:
        raise StructureError(
            f"the store {folder} holds ASE's {before!r}, these frames have {name!r}, which is another definition of "
            "the energy; extract all of them with one (--energy-key energy, into a new store), or keep two stores"
        )
