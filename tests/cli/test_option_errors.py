"""Values that commands refuse before they begin."""

import sys

import pytest
import torch

from mekrr_scale import cli
from mekrr_scale.cli import Batch
from mekrr_scale.cli.options import device_of
from mekrr_scale.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gpus": "two"}, "gpus 'two': write a number, or a type and a number, e.g. 1 or a100:1"),
        ({"time": "00:01:00", "notice": 60}, "the time limit 00:01:00 is not longer than the notice of 60 seconds"),
        ({"qos": "a b"}, "qos 'a b' has a space in it, which Slurm would not take"),
        ({"logs": "my logs"}, "logs 'my logs' has a space"),
        ({"memory": "much"}, "memory 'much': write 32G or 64000M"),
        ({"requeues": -1}, "requeues are not negative"),
        ({"extra": ("exclusive",)}, "'exclusive' is no option of sbatch"),
    ],
)
def test_batches(given, message):
    with pytest.raises(ConfigError, match=message):
        Batch(**given)


def test_gpus_are_counted_from_zero(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("cuda:1") == "cuda:1"
    with pytest.raises(ConfigError, match="device 'cuda:2': there are 2 GPUs here, counted from 0"):
        device_of("cuda:2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--derivatives many", "write all, none, or a number"),
        ("--shard-size big", "is not a size"),
        ("--units furlong", "unknown unit"),
        ("--nonsense 3", "extract would refuse this: No such option: --nonsense"),
        ("--seed many", "extract would refuse this: Invalid value for '--seed'"),
        ("'--seed", '--options "\'--seed": No closing quotation'),
    ],
)
def test_what_a_job_would_refuse_is_refused_now(monkeypatch, capsys, tmp_path, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.xyz").write_text("")
    monkeypatch.setattr(sys, "argv", ["mekrr-scale", "slurm", "extract", "a.xyz", "-o", "s", "--options", options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == (3 if "--units" in options else 2)
    assert message in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["a.xyz"]
