"""The C library's heap: whether memory that was used once is kept for what comes next.

glibc takes large pieces from the system for one tensor and gives them back with it. The system clears each page when it
is first touched, so that a network's evaluation in large tensors spends more time on pages than on numbers: 500 copper
atoms by 7net-0 take 2.4 times as long (docs/benchmarks.md, Engines). What evaluates a network again and again keeps its
pages while it does.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # mallopt's M_...
_PIECES, _PIECE, _END = 65536, 2**25, 2**26  # glibc's number of mapped pieces; bytes, as far as its thresholds grow
_INFO = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
_LOCK = threading.Lock()
_KEEPING: list[None] = []  # an item for each block that does


class _Info(ctypes.Structure):
    """glibc's mallinfo2."""

    _fields_ = [(name, ctypes.c_size_t) for name in _INFO]


@contextmanager
def kept_memory(keep: bool = True) -> Iterator[None]:
    """Keep what tensors leave for the next ones, in this block; at its end what is free goes back to the system.

    For molecular dynamics in a program of your own, twice as fast from some hundred atoms on. The process holds as much
    memory as it ever took, a third more than it would take otherwise. `run_md`, `relax` and training do this by
    themselves, where no ``max_memory`` is stated. Does nothing where the C library is not glibc.

    Args:
        keep: False does nothing.
    """
    if not keep:
        yield
        return
    with _LOCK:
        _KEEPING.append(None)
        keep_memory()
    try:
        yield
    finally:
        with _LOCK:
            _KEEPING.pop()
            if not _KEEPING:
                _give_back()


def keep_memory() -> bool:
    """The same from now on, for processes that do nothing else; whether the C library is one that can."""
    library = _glibc()
    return library is not None and all(
        library.mallopt(which, value) for which, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
    )


def free_kept() -> int:
    """Bytes that the heap holds and nothing uses, which the system counts as used.

    Free pieces whose pages went back to the system are not among them, to within what Python holds beside this heap (a
    few hundred MB): no library tells which pages are whose.
    """
    library, resident = _glibc(), anonymous_bytes()
    if library is None or resident is None:
        return 0
    library.mallinfo2.restype = _Info
    found = library.mallinfo2()
    return max(0, min(int(found.fordblks), resident - int(found.uordblks + found.hblkhd)))


def anonymous_bytes() -> int | None:
    """Memory of this process now, pages of mapped files apart; None where the system does not tell."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return None


def _give_back() -> None:
    library = _glibc()
    if library is not None:
        for which, value in ((_MMAP_MAX, _PIECES), (_MMAP_THRESHOLD, _PIECE), (_TRIM_THRESHOLD, _END)):
            library.mallopt(which, value)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """None where there is another one, or one before 2.33."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # the latter on Windows
        return None
    return library if all(hasattr(library, name) for name in ("mallopt", "malloc_trim", "mallinfo2")) else None
