"""``python -m benchmarks study``: what is not there yet is computed, then everything is shown."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks import kept
from benchmarks.data import ROOT, AbsentDataError
from benchmarks.measuring import table
from benchmarks.records import RESULTS, Record, Records
from benchmarks.sets import SETS, DataSet
from benchmarks.study import figure, ranking
from benchmarks.study.running import measured, record_key, usable
from benchmarks.study.settings import SIZES, Features, Setting, chosen, of_size
from mekrr_scale.errors import MekrrError


@dataclass(frozen=True)
class Work:
    """Settings that share the features of a set's frames."""

    data: DataSet
    size: int
    features: Features
    settings: tuple[tuple[str, Setting], ...]

    def done(self, path: Path) -> int:
        """Compute what the file lacks; returns how many lines that were."""
        records = Records(path)
        known = set(records.all())
        count = 0
        for name, setting in self.settings:
            if record_key(self.data, self.size, setting) in known:
                continue
            begin = time.perf_counter()
            record = records.add(self._line(name, setting))
            count += 1
            print(_told(record, time.perf_counter() - begin), flush=True)
        return count

    def _line(self, name: str, setting: Setting) -> Record:
        """Errors, or why the package refuses the setting on these data."""
        try:
            return measured(name, self.data, self.size, setting)
        except MekrrError as error:
            at = {"key": record_key(self.data, self.size, setting), "set": self.data.name, "size": self.size}
            return {**at, "name": name, "refused": str(error), "made_by": kept.made_by()}


def _told(record: Record, seconds: float) -> str:
    if "refused" in record:
        return f"{record['set']} {record['size']} | {record['name']} | refused: {record['refused']}"
    cv, test = (", ".join(f"{record[side][q]:.3g}" for q in ("energy", "force")) for side in ("cv", "test"))
    return f"{record['set']} {record['size']} | {record['name']} | CV {cv} | held-out {test} | {seconds:.0f} s"


def works(sets: Sequence[DataSet], sizes: Sequence[int], settings: Mapping[str, Setting]) -> Iterator[Work]:
    """The important ones first: the base's features on every set before the next features."""
    for size in sizes:
        ordered = list(of_size(settings, size).items())
        for one in dict.fromkeys(setting.features for _, setting in ordered):
            sharing = tuple(item for item in ordered if item[1].features == one)
            for data in sets:
                if one.frames(size) <= data.most:
                    yield Work(data, size, one, sharing)


def current(path: Path, sets: Sequence[DataSet], sizes: Sequence[int], settings: Mapping[str, Setting]) -> list[Record]:
    """Lines of the file that belong to what is asked for; those of other versions, data or settings are left out."""
    wanted = {record_key(data, size, one) for data in sets for size in sizes for one in settings.values()}
    return [record for name, record in Records(path).all().items() if name in wanted]


def show(records: Sequence[Record], drawn: Path) -> None:
    """The tables of docs/benchmarks.md, and the figure."""
    found = ranking.groups(record for record in records if "refused" not in record)
    if not found:
        print("no set has its base setting yet")
        return
    titles = {
        "Winners, by cross-validation and held out (RMSE; meV/atom, meV/angstrom)": ranking.winners,
        "Settings against the base, means over sets": ranking.effects,
        "Where cross-validation misleads by more than a tenth": ranking.misleading,
        "Ridges that were taken": ranking.ends,
    }
    for title, made in titles.items():
        print(f"### {title}\n")
        header, rows = made(found)
        table(header, rows)
    for record in records:
        if "refused" in record:
            print(f"refused: {record['set']} {record['size']}, {record['name']}: {record['refused']}")
    codes = {record["made_by"] for record in records}
    if len(codes) > 1:
        print(f"these lines were made by {len(codes)} states of the code; remove those to be made anew from the file")
    figure.draw(found, drawn)
    print(f"figure: {drawn}")


def main(arguments: Sequence[str] = ()) -> None:
    asked = options().parse_args(arguments)
    if asked.cache is not None:
        os.environ["BENCHMARK_CACHE"] = os.path.abspath(asked.cache)
    sets = _present([SETS[name] for name in asked.sets or SETS], required=bool(asked.sets))
    sizes = [SIZES[name] for name in asked.sizes]
    settings = chosen(asked.settings)
    if not asked.report:
        _compute(list(works(sets, sizes, settings)), asked.results, asked.jobs)
    show(current(asked.results, sets, sizes, settings), asked.figure)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks study", description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[], help="by default all whose data are here")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="training sizes")
    parser.add_argument("--settings", nargs="+", default=[], metavar="NAME", help="by default all")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--cache", help=f"folder of frames and stores; default: BENCHMARK_CACHE, or {kept.folder()}")
    parser.add_argument("--results", type=Path, default=RESULTS / "study.jsonl", help="a line for each result")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "figures" / "study.png")
    parser.add_argument("--report", action="store_true", help="compute nothing; show what there is")
    return parser


def _present(sets: Sequence[DataSet], required: bool) -> list[DataSet]:
    """Those whose files are here.

    Raises:
        AbsentDataError: one that was asked for is not, or none is.
    """
    found = []
    for data in sets:
        try:
            data.identity()
        except AbsentDataError as error:
            if required:
                raise
            print(f"left out: {error}")
        else:
            found.append(data)
    if not found:
        raise AbsentDataError("none of the sets is on this machine; give their folder, as --data FOLDER")
    return found


def _compute(listed: Sequence[Work], results: Path, jobs: int) -> None:
    """All works, in their order; those whose features the package does not make are told and left out."""
    refused = {features: usable(features) for features in dict.fromkeys(work.features for work in listed)}
    for features, why in refused.items():
        if why:
            print(f"left out: {features.backbone} {features.layer}: {why}")
    left = [work for work in listed if not refused[work.features]]
    if jobs == 1:
        _one_thread()
        for work in left:
            work.done(results)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), _one_thread) as pool:
        for _, same in groupby(left, key=lambda work: (work.size, work.features)):
            list(pool.map(Work.done, batch := list(same), [results] * len(batch)))


def _one_thread() -> None:
    torch.set_num_threads(1)
