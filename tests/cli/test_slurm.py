"""Batch scripts: accepted by bash, run with stand-ins for Slurm's commands, requeued at their limit."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mekrr_scale.cli import Batch, command_script, extract_script, finalize_script, fit_script
from mekrr_scale.cli.app import app, command
from mekrr_scale.errors import BackboneError, ConfigError, StructureError
from mekrr_scale.models import Model
from mekrr_scale.store import FeatureStore

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster(tmp_path, warm):
    """srun runs the command here, scontrol writes down what it was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    commands = {
        "srun": 'while [[ "$1" == --* ]]; do shift; done\nexec "$@"',
        "scontrol": f'if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> {tmp_path}/scontrol.log; fi',
        "python": f'exec {warm.programs}/python "$@"',
        "torchrun": f'exec {warm.programs}/python -m torch.distributed.run "$@"',
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
    options = ("--no-check", "--no-report")
    text = fit_script(Batch(cpus=1), str(config), 1, ranks, launcher, str(tmp_path / "kept"), options)  # type: ignore[arg-type]
    script.write_text(text)
    assert f"#SBATCH --ntasks-per-node={1 if launcher == 'torchrun' else ranks}" in text
    done = subprocess.run(["bash", script], env=cluster, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Model.load(tmp_path / "m.mekrr").landmarks.n_sets == 40
    assert ("each of 2 ranks" in done.stdout) == (launcher == "torchrun")
    assert not (tmp_path / "scontrol.log").exists()


def ended(text, work, environment, tmp_path, at_limit=True, before="", between=""):
    """How a script ends whose work is a stand-in, and what it asked of Slurm."""
    begin = text.index("srun --kill-on-bad-exit" if "srun" in text else "python -m mekrr_scale")
    script = tmp_path / "job.sbatch"
    start = f"{before}bash {_program(tmp_path, work)} &\n{between}"
    script.write_text(f"{text[:begin]}{start}{text[text.index('work=$!') :]}")
    log = tmp_path / "scontrol.log"
    log.unlink(missing_ok=True)
    (tmp_path / "begun").unlink(missing_ok=True)
    with subprocess.Popen(["bash", script], env=environment, stderr=subprocess.PIPE, text=True) as process:
        if at_limit:
            while not (tmp_path / "begun").exists():
                time.sleep(0.01)
            process.send_signal(signal.SIGUSR1)
        told = process.communicate(timeout=300)[1]
    return process.returncode, log.read_text() if log.exists() else "", told


def _program(tmp_path, work):
    path, begun = tmp_path / "work.sh", tmp_path / "begun"
    path.write_text(work.replace("{begun}", str(begun)) if "{begun}" in work else f"touch {begun}\n{work}\n")
    return path


WAITS = "until [ -e {kept}/stop ]; do sleep 0.02; done; "
FIT_ENDS = [
    (WAITS + "touch {kept}/stopped; exit 75", True, 75, True),
    (WAITS + "touch {kept}/stopped; exit 1", True, 1, True),  # torchrun hides the code
    (WAITS + "exit 0", True, 0, False),  # it was done before it could stop: not once more
    (WAITS + "exit 7", True, 7, False),
    ("exit 4", False, 4, False),
    ("exit 75", False, 75, True),  # preempted
    ("exit 0", False, 0, False),
]


@pytest.mark.parametrize(("work", "at_limit", "code", "again"), FIT_ENDS)
def test_only_a_fit_that_was_stopped_is_requeued(tmp_path, cluster, work, at_limit, code, again):
    """The file of a run before, which said that it was stopped, is none of this run's."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "stopped").touch()
    text = fit_script(Batch(cpus=1, notice=60), "fit.toml", 1, 1, "srun", str(kept))
    assert text.index("rm -f") < text.index("work=$!")
    found, asked, _ = ended(text, work.format(kept=kept), cluster, tmp_path, at_limit)
    assert found == code
    assert asked == (f"requeue {cluster['SLURM_JOB_ID']}\n" if again else "")


def at_term(code):
    """Work that answers SIGTERM with this exit code."""
    return f"trap 'kill $!; exit {code}' TERM; sleep 600 & touch {{begun}}; wait"


@pytest.mark.parametrize(
    ("work", "code", "again"), [("exec sleep 600", 143, True), (75, 75, True), (3, 3, False), (0, 0, False)]
)
def test_commands_that_resume_are_stopped_and_requeued(tmp_path, cluster, work, code, again):
    text = command_script(Batch(cpus=1), ["md", "m.mekrr", "a.xyz", "-o", "r.xyz"])
    found, asked, _ = ended(text, work if isinstance(work, str) else at_term(work), cluster, tmp_path)
    assert found == code
    assert asked == (f"requeue {cluster['SLURM_JOB_ID']}\n" if again else "")


@pytest.mark.parametrize("where", ["before", "between"])
@pytest.mark.parametrize("kind", ["fit", "command"])
def test_a_notice_that_comes_before_the_work_is_known_is_not_lost(tmp_path, cluster, where, kind):
    """The shell learns its child's number a moment after the child runs."""
    kept = tmp_path / "kept"
    text = command_script(Batch(cpus=1), ["md", "m.mekrr", "a.xyz", "-o", "r.xyz"])
    if kind == "fit":
        text = fit_script(Batch(cpus=1, notice=60), "fit.toml", 1, 1, "srun", str(kept))
    work = f"until [ -e {kept}/stop ]; do sleep 0.02; done; exit 75" if kind == "fit" else "exec sleep 600"
    notice = {where: "kill -USR1 $$\n"}
    code, asked, _ = ended(text, work, cluster, tmp_path, at_limit=False, **notice)
    assert (code, asked) == (75 if kind == "fit" else 143, f"requeue {cluster['SLURM_JOB_ID']}\n")


def test_a_job_is_not_requeued_for_ever(tmp_path, cluster):
    text = fit_script(Batch(cpus=1, requeues=3), "fit.toml", 1, 1, "srun", str(tmp_path / "kept"))
    for count, again in ((2, True), (3, False), (4, False)):
        environment = {**cluster, "SLURM_RESTART_COUNT": str(count)}
        code, asked, told = ended(text, "exit 75", environment, tmp_path, at_limit=False)
        assert code == 75
        assert bool(asked) == again
        assert ("requeued 3 times already" in told) != again


def test_an_array_goes_on_with_its_own_part(tmp_path, cluster):
    text = extract_script(Batch(cpus=1), ["a.xyz"], "store", 4)
    code, asked, _ = ended(text, "exec sleep 600", {**cluster, "SLURM_ARRAY_TASK_ID": "3"}, tmp_path)
    assert (code, asked) == (143, "requeue 7_3\n")


def test_a_tuning_is_an_array_and_the_job_that_follows_it(tmp_path, monkeypatch, cluster):
    monkeypatch.chdir(tmp_path)
    Path("a.xyz").touch()
    options = ["--parts", "3", "--cpus", "2", "--options", "--budget 2h --test a.xyz"]
    done = CliRunner().invoke(app, ["slurm", "tune", "a.xyz", "-o", "tuned", *options])
    assert done.exit_code == 0, done.output
    assert "--dependency=afterany" in done.output
    race, model = (Path(name).read_text() for name in ("tune.sbatch", "tune-model.sbatch"))
    assert "#SBATCH --array=1-3" in race
    assert '--part "$SLURM_ARRAY_TASK_ID/3"' in race
    assert "--part" not in model
    for text, job in ((race, "7_2"), (model, cluster["SLURM_JOB_ID"])):
        assert f"--output {tmp_path / 'tuned'} --budget 2h --test a.xyz" in text
        code, asked, _ = ended(text, "exec sleep 600", {**cluster, "SLURM_ARRAY_TASK_ID": "2"}, tmp_path)
        assert (code, asked) == (143, f"requeue {job}\n")


def test_a_gpu_is_used_where_one_is_asked_for():
    batch = Batch(gpus="a100:2")
    texts = [
        fit_script(batch, "fit.toml", 1, 2),
        extract_script(batch, ["a.xyz"], "store", 2),
        command_script(batch, ["evaluate", "m.mekrr", "a.xyz"], resumes=False),
    ]
    assert all("--device cuda" in text for text in texts)
    assert "--gpus-per-node=a100:4" in texts[0]
    assert "--gpus-per-node=a100:2" in texts[1]
    assert extract_script(batch, ["a.xyz"], "store", 2, ["--device", "cuda:1"]).count("--device") == 1
    assert "--device" not in fit_script(Batch(gpus=0), "fit.toml")
    second = finalize_script(batch, "store")
    assert "gpus" not in second
    assert "USR1" not in second
    assert "USR1" not in texts[2]  # which could only start over


def test_steps_have_the_cores_of_their_tasks():
    """Since Slurm 22.05 srun does not take the number from the batch job by itself."""
    for launcher, cores in (("torchrun", 12), ("srun", 6)):
        text = fit_script(Batch(cpus=6), "fit.toml", 1, 2, launcher)
        assert f"#SBATCH --cpus-per-task={cores}\n" in text
        assert f"srun --kill-on-bad-exit=1 --cpus-per-task={cores} " in text


def test_lines_of_the_user_come_before_what_they_may_not_bear(tmp_path, cluster):
    """conda's scripts look at variables that are not set."""
    batch = Batch(setup='if [ "$NOT_SET_ANYWHERE" = x ]; then exit 9; fi')
    for text in (finalize_script(batch, "store"), fit_script(batch, "fit.toml", launcher="srun")):
        script = tmp_path / "job.sbatch"
        script.write_text(text[: text.index("export OMP_NUM_THREADS")] + "exit 0\n")
        done = subprocess.run(["bash", script], env=cluster, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


INNER = [
    ("md m.mekrr a.xyz", "-o r.xyz --stpes 3", "--steps"),
    ("md m.mekrr a.xyz", "-o r.xyz --steps many", "valid integer"),
    ("md m.mekrr a.xyz", "", "--output"),
    ("extract a.xyz -o store", "--derivative 3", "--derivatives"),
    ("fit fit.toml", "--ridgee 1e-3", "--ridge"),
    ("fit fit.toml", "--ridge little", "little"),
    ("fit wrong.toml", "", "landmark"),
    ("evaluate m.mekrr", "", "'data'"),
    ("finetune a.xyz", "-o t.pt --lrr 3", "--lr"),
    ("curve a.xyz", "-o c --tets b.xyz", "--test"),
    ("tune a.xyz -o t", "--budget soon", "no time"),
    ("tune a.xyz -o t", "--butget 5m", "--budget"),
    ("tune a.xyz -o t", "--landmarks 0", "landmarks"),
    ("tune a.xyz -o t", "--test b.xyz", "b.xyz"),
    ("extract a.xyz -o store", "--backbone chgnett", "chgnet"),
    ("learn none.toml", "-o loop", "none.toml"),
    ("learn loop.toml", "-o loop", "generations"),
    ("learn mine.toml", "-o loop", "--trust-code"),
    ("extract a.xyz -o store", "--derivatives 0", "0 directions"),
    ("extract a.xyz -o store", "--shard-work -1", "work per shard"),
    ("evaluate m.mekrr a.xyz", "--units foo", "foo"),
    ("evaluate m.mekrr a.xyz", "--max-memory much", "much"),
    ("evaluate m.mekrr a.xyz", "--no-forces --species-plot s.png", "--species-plot"),
    ("evaluate m.mekrr a.xyz", "--transfer b.mekrr", "MODEL:DATA"),
    ("md m.mekrr a.xyz", "-o r.xyz --temperature -300", "temperature"),
    ("md m.mekrr a.xyz", "-o r.xyz --max-force -1", "force"),
    ("md m.mekrr a.xyz a.xyz", "-o r.xyz", "one structure"),
    ("finetune a.xyz", "-o t.pt --lr-decay 2", "decay"),
    ("finetune a.xyz", "-o t.pt --lr-map conv=x", "--lr-map"),
    ("finetune a.xyz", "-o t.pt --steps -5", "steps"),
    ("finetune a.xyz", "-o t.pt --lr 0", "learning_rate"),
    ("finetune a.xyz", "-o t.pt --species-map Si", "Si"),
    ("curve a.xyz", "--test a.xyz -o c --variants scrach", "scratch"),
    ("curve a.xyz", "--test a.xyz -o c --sizes ten", "--sizes"),
    ("curve a.xyz", "--test a.xyz -o c --derivatives 0", "derivatives: input should be greater"),
    ("curve a.xyz", "--test a.xyz -o c --lr fast", "--lr"),
    ("curve a.xyz", "--test a.xyz -o c --backbone chgnett", "chgnet"),
    ("curve a.xyz", "--test a.xyz -o c --landmarks 0", "0 landmarks"),
    ("fit fit.toml", "--landmarks 0", "0 landmarks"),
    ("md m.mekrr a.xyz", "-o r.xyz --device gpu", "--device"),
    ("md m.mekrr a.xyz", "-o r.xyz --d3 nonsense", "nonsense"),
    ("evaluate m.mekrr a.xyz", "--device gpu", "--device"),
    ("evaluate m.mekrr a.xyz", "--d3 nonsense", "nonsense"),
    ("finetune a.xyz", "-o t.pt --valid-fraction 2", "--valid-fraction"),
    ("finetune a.xyz", "-o t.pt --device gpu", "--device"),
    ("extract a.xyz -o store", "--device gpu", "--device"),
    ("extract a.xyz -o store", "--prior-species-map Si:Ge", "--prior"),
    ("extract a.xyz -o store", "--prior-forces-key f", "--prior"),
    ("extract a.xyz -o store", "--prior labels --prior-units foo", "foo"),
]


@pytest.mark.parametrize(("words", "options", "named"), INNER)
def test_what_a_job_would_refuse_is_refused_when_it_is_written(words, options, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.xyz", "m.mekrr"):
        Path(name).touch()
    Path("fit.toml").write_text('store = ["s"]\noutput = "m.mekrr"\n')
    Path("wrong.toml").write_text('store = ["s"]\noutput = "m.mekrr"\n[landmark]\ncount = 3\n')
    Path("loop.toml").write_text('frames = "a.xyz"\ncalculator = "emt"\ngeneration = 3\n')
    Path("mine.toml").write_text('frames = "a.xyz"\ncalculator = "my.module:Mine"\n')
    done = CliRunner().invoke(app, ["slurm", *words.split(), "--options", options])
    assert isinstance(done.exception, ConfigError | BackboneError | StructureError), done.output
    assert named.lower() in str(done.exception).lower()  # typer writes names of arguments in either
    assert not list(tmp_path.glob("*.sbatch"))


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
    for wrong in (
        {"time": "soon"}, {"memory": "lots"}, {"cpus": 0}, {"notice": 5}, {"gpus": "a100:"}, {"gpus": -1},
        {"time": "00:02:00"}, {"time": "3", "notice": 180}, {"requeues": -1}, {"partition": "a b"},
        {"extra": ("exclusive",)}, {"extra": ("--x\nrm -rf",)},
    ):  # fmt: skip
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
    for limit in ("UNLIMITED", "0", "3:01", "1-00", "00:03:01"):
        assert f"--time={limit}\n" in finalize_script(Batch(time=limit, notice=180), "store")
    quoted = extract_script(Batch(), ["it's here.xyz"], "my store", 2)
    assert subprocess.run(["bash", "-n"], input=quoted, text=True, check=False).returncode == 0
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


@pytest.mark.parametrize("words", [["extract", "a.xyz", "-o", "s"], ["tune", "a.xyz", "-o", "t"], ["fit", "fit.toml"]])
def test_a_script_without_a_name_is_refused(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.xyz", "fit.toml"):
        Path(name).touch()
    done = CliRunner().invoke(app, ["slurm", *words, "--script", ""])
    assert isinstance(done.exception, ConfigError)
    assert "--script" in str(done.exception)
