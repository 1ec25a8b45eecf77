"""Skips are expected, or the session fails: a plugin of pytest's, which conftest.py takes where STRICT is set.

`make test` sets it: it has installed all that the tests need, so that what is skipped beyond this list would never be
tested again, and nobody would notice. Elsewhere a person may lack what they like.
"""

from __future__ import annotations

import re

import pytest

STRICT = "MEKRR_TEST_STRICT"  # the environment's variable

# reasons, and why `make test` may have them
EXPECTED = {
    "mace-torch is not installed": "it has an environment of its own, with `make test-mace`",
    "mace-torch is here": "that environment",
    "this is that process": "the suite of devices does not start itself",
    "the falkon library is not on PyPI": "benchmarks/falkon_library.py builds it",
    "the library is installed": "what is told where it is absent",
    "metatomic is not installed": "an environment made before the extra was there lacks it",
    "could not import 'triton'": "it is there with CUDA builds of torch alone",
    "needs Slurm's daemons, and root": "machines of CI may lack them",
    "could not import 'ase_db_backends'": "it brings clients of database servers, which few want (extra lmdb)",
    "no chromium to look at pages with": "a machine of CI may have no browser",
    "torch.compile needs a C++ compiler": "a bare machine has none",
    "the plugin of LAMMPS needs a C++ compiler": "a bare machine has none",
}
_KNOWN = re.compile("|".join(map(re.escape, EXPECTED)))


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """Why a test or a module was skipped, if it was; an expected failure is no skip."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return None
    told = report.longrepr
    return str(told[2] if isinstance(told, tuple) else told).removeprefix("Skipped: ")


class Watch:
    """Collects the skips that nobody expects."""

    def __init__(self) -> None:
        self.others: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._look(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._look(report)

    def _look(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = reason_of(report)
        if reason is not None and not _KNOWN.search(reason):
            self.others[report.nodeid] = reason

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.others and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.others:
            terminalreporter.section("skips that are not expected (tests/skips.py)", red=True)
            for name, reason in self.others.items():
                terminalreporter.line(f"{name}: {reason}")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # processes of xdist tell the first one
        config.pluginmanager.register(Watch(), "skips-watch")
