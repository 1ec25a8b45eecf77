"""Batch scripts: accepted by bash, run with stand-ins for Slurm's commands, requeued at their limit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mekrr_scale.cli import Batch, extract_script, fit_script
from mekrr_scale.cli.app import app, command
from mekrr_scale.errors import ConfigError
from mekrr_scale.models import Model
from mekrr_scale.store import FeatureStore

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster(tmp_path):
    """srun runs the command here, scontrol writes down what it was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    commands = {
        "srun": 'while [[ "$1" == --* ]]; do shift; done\nexec "$@"',
        "scontrol": f'if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> {tmp_path}/scontrol.log; fi',
        "python": f'exec {sys.executable} "$@"',
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
    }
    for name, text in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_NNODES": "1",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_ARRAY_JOB_ID": "7",
    }


def test_an_array_extracts_its_parts(toy_file, checkpoint, tmp_path, cluster):
    script = tmp_path / "extract.sbatch"
    options = f"--backbone schnet --checkpoint {checkpoint} --shard-size 4K --energy-key energy"
    command = [
        "slurm",
        "extract",
        str(toy_file),
        "-o",
        str(tmp_path / "store"),
        "--parts",
        "3",
        "--script",
        str(script),
    ]
    done = CliRunner().invoke(app, [*command, "--cpus", "1", "--partition", "long", "--options", options])
    assert done.exit_code == 0, done.output
    assert "--dependency=afterok" in done.output
    text = script.read_text()
    for line in ("#SBATCH --array=1-3", "#SBATCH --partition=long", "#SBATCH --requeue", "#SBATCH --cpus-per-task=1"):
        assert line in text
    for part in (1, 2, 3):
        environment = {**cluster, "SLURM_ARRAY_TASK_ID": str(part)}
        done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    second = tmp_path / "extract-finalize.sbatch"
    done = subprocess.run(["bash", second], env=cluster, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert FeatureStore(tmp_path / "store").n_structures == 24


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_a_fit_runs_on_ranks(store, tmp_path, cluster, launcher):
    config = tmp_path / "fit.toml"
    config.write_text(
        f'store = ["{store}"]\noutput = "m.mekrr"\nvalidate = 0\n[landmarks]\ncount = 40\n'
        '[kernel]\nlength_scale = ["2x"]\n[baseline]\nkind = ["composition"]\n'
        '[solver]\nname = "falkon"\nridge = [1e-6]\nforce_weight = [0.01]\n'
    )
    ranks = 2 if launcher == "torchrun" else 1
    script = tmp_path / "fit.sbatch"
    text = fit_script(Batch(cpus=1), str(config), 1, ranks, launcher, str(tmp_path / "kept"))  # type: ignore[arg-type]
    script.write_text(text)
    assert f"#SBATCH --ntasks-per-node={1 if launcher == 'torchrun' else ranks}" in text
    done = subprocess.run(["bash", script], env=cluster, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Model.load(tmp_path / "m.mekrr").landmarks.n_sets == 40
    assert ("each of 2 ranks" in done.stdout) == (launcher == "torchrun")
    assert not (tmp_path / "scontrol.log").exists()


def test_at_its_limit_a_fit_puts_its_state_away_and_requeues(tmp_path, cluster):
    """The work is a stand-in that ends as soon as it sees the file ``stop``, as a fit does."""
    text = fit_script(Batch(cpus=1, notice=60), "fit.toml", 1, 1, "srun", str(tmp_path / "kept"))
    begin = text.index("srun --kill-on-bad-exit")
    end = text.index("work=$!")
    waiting = (
        f"bash -c 'until [ -e {tmp_path}/kept/stop ]; do sleep 0.1; done; touch {tmp_path}/kept/stopped; exit 75' &\n"
    )
    script = tmp_path / "fit.sbatch"
    script.write_text(text[:begin] + waiting + text[end:])
    with subprocess.Popen(["bash", script], env=cluster) as process:
        time.sleep(1.0)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=30) in {75, 128 + signal.SIGUSR1}
    assert f"requeue {cluster['SLURM_JOB_ID']}" in (tmp_path / "scontrol.log").read_text()


def test_the_guide_has_every_option():
    guide = (ROOT / "docs" / "hpc.md").read_text()
    for one in command("slurm").commands.values():
        for parameter in one.params:
            names = [name for name in parameter.opts if name.startswith("--") and name != "--help"]
            assert not names or any(f"`{name}" in guide for name in names), names
    of_fit = {name for parameter in command("fit").params for name in parameter.opts}
    scale = {
        "--memory",
        "--scratch",
        "--device",
        "--checkpoint",
        "--checkpoint-interval",
        "--timeout",
        "--sums",
        "--dry-run",
    }
    assert scale <= of_fit
    assert all(f"`{name}" in guide or f"fit {name}" in guide for name in scale)


def test_options_that_slurm_would_not_take():
    for wrong in ({"time": "soon"}, {"memory": "lots"}, {"cpus": 0}, {"notice": 5}):
        with pytest.raises(ConfigError):
            Batch(**wrong)
    with pytest.raises(ConfigError, match="at least one"):
        extract_script(Batch(), ["a.xyz"], "store", 0)
    with pytest.raises(ConfigError, match="at least one"):
        fit_script(Batch(), "fit.toml", 0)
    text = fit_script(Batch(memory="16G", gpus=1, extra=("--qos=high",)), "fit.toml", 2, 4)
    assert "--mem=64G" in text
    assert "--gpus-per-node=4" in text
    assert "--qos=high" in text
    quoted = extract_script(Batch(), ["it's here.xyz"], "my store", 2)
    assert subprocess.run(["bash", "-n"], input=quoted, text=True, check=False).returncode == 0
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
