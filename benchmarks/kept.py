"""What is kept between runs, under keys of the package's version and code, the plan and the data.

Another version, plan or file has another key and so another folder: nothing made before can stand for it.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import xxhash

from mekrr_scale import __version__

ROOT = Path(__file__).parent.parent
_LIBRARIES = ("chgnet", "sevenn", "torch")


def folder() -> Path:
    """BENCHMARK_CACHE, or build/benchmarks."""
    return Path(os.environ.get("BENCHMARK_CACHE") or ROOT / "build" / "benchmarks")


def key(*parts: object) -> str:
    """A few letters for version, code and libraries, and for whatever else shapes what is kept."""
    return xxhash.xxh3_64_hexdigest("\n".join([made_by(), *map(repr, parts)]).encode())[:12]


@cache
def made_by() -> str:
    """Version and code of the package, and the libraries that features come from.

    The code too: between releases the version stays what it is.
    """
    sources = xxhash.xxh3_64()
    for path in sorted((ROOT / "mekrr_scale").rglob("*.py")):
        sources.update(path.relative_to(ROOT).as_posix().encode())
        sources.update(path.read_bytes())
    return f"{sources.hexdigest()} {libraries()}"


def libraries() -> str:
    """Versions of the package and of the libraries that features come from."""
    return " ".join([__version__, *(f"{name} {_version(name)}" for name in _LIBRARIES)])


def hashed(path: Path) -> str:
    """Of a file's bytes."""
    return xxhash.xxh3_64_hexdigest(path.read_bytes())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
