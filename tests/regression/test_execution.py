"""How a fit runs: what texts mean, and what is taken where nothing is said."""

from pathlib import Path

import pytest

from mekrr_scale.errors import ConfigError
from mekrr_scale.regression import Execution


@pytest.mark.parametrize("text", ["none", "None", "NONE"])
def test_no_scratch_folder(text):
    assert Execution(scratch=text).scratch is None


def test_a_scratch_folder(tmp_path):
    assert Execution(scratch=str(tmp_path)).scratch == Path(tmp_path)
    assert Execution(scratch="nonesuch").scratch == Path("nonesuch")
    assert Execution(scratch=tmp_path).scratch == tmp_path
    assert Execution(scratch=None).scratch is None
    assert Execution().scratch is not None


def test_memory_in_words():
    assert Execution(memory="512M").memory == 512 * 1024**2
    assert Execution(memory=1000).memory == 1000
    assert Execution().memory == Execution(memory="2G").memory  # as docs/hpc.md says
    with pytest.raises(ConfigError, match="True is not a size; write 512M or 2G"):
        Execution(memory=True)
