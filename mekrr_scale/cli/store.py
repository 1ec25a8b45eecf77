"""``store``: looking after feature stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from mekrr_scale.cli.console import out, say, show, warn
from mekrr_scale.cli.options import EXIT_CODES, Basis, Compress, Residual, commands
from mekrr_scale.errors import StoreError
from mekrr_scale.files import parse_bytes

app = commands("Look after feature stores: info, verify, finalize, merge, repack.")

StorePath = Annotated[Path, typer.Argument(help="folder of the store")]
_TWICE = "where labels of one geometry differ between sources: error, take the newest, or keep all"


@app.command(epilog=EXIT_CODES)
def info(
    store: StorePath,
    as_json: Annotated[bool, typer.Option("--json", help="print the manifest's summary as JSON")] = False,
) -> None:
    """What a store holds.

    Example:

        mekrr-scale store info features
    """
    from ase.data import chemical_symbols
    from rich.table import Table

    from mekrr_scale.store import FeatureStore

    found = FeatureStore(store, level="size")
    summary = {
        "id": found.id,
        "structures": found.n_structures,
        "with energy": sum(shard.energies for shard in found.shards),
        "atoms": found.n_atoms,
        "species": {chemical_symbols[z]: n for z, n in found.species.items()},
        "directions": found.n_directions,
        "drawn": dict(found.header.directions),
        "shards": len(found.shards),
        "bytes": sum(shard.bytes for shard in found.shards),
        "backbone": dict(found.header.backbone),
        "features": found.header.dim,
        "dtype": found.header.dtype,
        "schema": found.manifest["schema"],
    }
    if found.header.compression:
        summary["compressed"] = found.header.axes
    if found.n_excluded:
        summary["left out"] = f"{found.n_excluded} structures: copies, or labels corrected since"
    if found.incomplete:
        summary["not complete"] = "; ".join(lack.said for lack in found.incomplete.values())
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    table = Table(title=str(store), title_justify="left", show_header=False)
    for key, value in summary.items():
        table.add_row(key, str(value))
    out.print(table)


@app.command(epilog=EXIT_CODES)
def verify(
    store: StorePath, quick: Annotated[bool, typer.Option(help="sizes and metadata only, not every byte")] = False
) -> None:
    """Check every byte of a store against its hashes. Exit code 4 if anything is damaged.

    Example:

        mekrr-scale store verify features
    """
    from mekrr_scale.store import verify

    report = verify(store, full=not quick)
    for line in report.damaged:
        say(f"damaged: {line}")
    for name in report.strays:
        show(f"not in the manifest: {name}")
    if not report.ok:
        raise StoreError(f"{len(report.damaged)} of {report.checked} shards of {store} are damaged")
    say(f"{report.checked} shards, all as they were written")


@app.command(epilog=EXIT_CODES)
def finalize(
    store: StorePath,
    on_duplicate: Annotated[
        Literal["error", "newest", "keep"] | None, typer.Option(help=f"{_TWICE}; by default as before, else error")
    ] = None,
    allow_incomplete: Annotated[bool, typer.Option(help="though parts of the extraction are not done")] = False,
) -> None:
    """Write the manifest when all parts of an extraction are done. A geometry counts once, with the newer labels.

    Example:

        mekrr-scale store finalize features
    """
    from mekrr_scale.store import finalize

    found = finalize(store, on_duplicate, allow_incomplete)
    for remark in found.remarks:
        warn(remark)
    say(f"{store}: {len(found.shards)} shards, {found.n_structures} structures, id {found.id}")


@app.command(epilog=EXIT_CODES)
def merge(
    sources: Annotated[list[Path], typer.Argument(help="stores to join")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the new store")],
    on_duplicate: Annotated[Literal["error", "newest", "keep"], typer.Option(help=_TWICE)] = "error",
) -> None:
    """Join stores of the same backbone in a new one, each geometry once; shards are linked where the disk allows.

    Example:

        mekrr-scale store merge run1 run2 -o all
    """
    from mekrr_scale.store import merge

    found = merge(sources, output, on_duplicate)
    for remark in found.remarks:
        warn(remark)
    say(f"{output}: {len(found.shards)} shards, {found.n_structures} structures")


@app.command(epilog=EXIT_CODES)
def repack(
    source: StorePath,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the new store")],
    shard_size: Annotated[str, typer.Option(help="features per shard")] = "1G",
    compress: Compress = None,
    residual: Residual = None,
    basis: Basis = "species",
    tangent_dtype: Annotated[
        Literal["same", "float16"], typer.Option(help="precision of the tangents; float16 halves what float32 takes")
    ] = "same",
) -> None:
    """Write a store anew: shards of another size, features compressed, tangents in half precision.

    Examples:

        mekrr-scale store repack features -o packed --shard-size 2G

        mekrr-scale store repack features -o small --compress 128 --tangent-dtype float16
    """
    from mekrr_scale.store import Reduction, repack

    wanted = Reduction.given(compress, residual, basis)
    found = repack(source, output, parse_bytes(shard_size), reduction=wanted, tangent_dtype=tangent_dtype)
    for remark in found.remarks:
        warn(remark)
    say(f"{output}: {len(found.shards)} shards, {found.n_structures} structures")
