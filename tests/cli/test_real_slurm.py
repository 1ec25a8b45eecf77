"""Batch scripts on a real Slurm: two nodes on this machine, where its daemons are installed (Debian: slurm-wlm, munge).

What a job does is a stand-in; how it is queued, told of its limit, requeued and started on several tasks is Slurm's.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mekrr_scale.cli import Batch, command_script, extract_script, finalize_script, fit_script

ROOT = Path(__file__).parents[2]
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "setpriv")
PATIENCE = 120.0  # seconds until something is called lost
WAITING = {}  # since when each start of each job was seen to wait, in seconds

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or any(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None for name in NEEDED),
    reason="needs Slurm's daemons, and root to start them",
)

CONFIGURATION = """
ClusterName=here
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
KillWait=5
MinJobAge=300
JobRequeue=1
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=n1 NodeHostname={host} Port={first} CPUs=4 State=UNKNOWN
NodeName=n2 NodeHostname={host} Port={second} CPUs=4 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count):
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes that are up, and what a shell needs to talk to them."""
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir()
    for parent in [folder, *folder.parents[:3]]:  # munge's own user has to reach its socket
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)
    port, first, second = free_ports(3)
    configuration = folder / "slurm.conf"
    host = socket.gethostname().split(".")[0]
    configuration.write_text(CONFIGURATION.format(folder=folder, host=host, port=port, first=first, second=second))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))},
        "SLURM_CONF": str(configuration),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin",
        "PYTHONPATH": str(ROOT),
    }
    munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munge += [f"--{name}={folder}/munge.{name[:4]}" for name in ("pid-file", "seed-file", "log-file")]
    daemons = [munge, ["slurmctld", "-D", "-f", str(configuration)]]
    daemons += [["slurmd", "-D", "-N", name, "-f", str(configuration)] for name in ("n1", "n2")]
    running = []
    try:
        for command in daemons:
            with (folder / f"{command[0]}-{len(running)}.out").open("w") as log:
                running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder))
            if command is munge:
                until((folder / "munge.socket").exists, "munged")
        until(lambda: tell(environment, "sinfo", "-h", "-N", "-o", "%t", check=False).split() == ["idle"] * 2, "nodes")
        yield environment
    finally:
        tell(environment, "scancel", "--user=root", check=False)
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(timeout=30)


def until(done, what):
    ends = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < ends, f"waited too long for {what}"
        time.sleep(0.1)


def tell(environment, *command, check=True):
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def submitted(environment, folder, text, *options):
    script = folder / f"job{len(list(folder.glob('job*.sbatch')))}.sbatch"
    script.write_text(text)
    return tell(environment, "sbatch", "--parsable", f"--chdir={folder}", *options, str(script)).strip()


def about(environment, job):
    """What Slurm says of a job."""
    words = tell(environment, "scontrol", "show", "job", job, "--oneliner").splitlines()[0].split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def hurried(environment, job):
    """Slurm lets what was requeued wait for two minutes: three seconds here.

    Not less: nodes refuse what begins within the second in which the job was ended ("already killed, do not launch").
    """
    found = about(environment, job)
    if found["JobState"] == "PENDING" and found["Restarts"] != "0":
        since = WAITING.setdefault((environment["SLURM_CONF"], job, found["Restarts"]), time.monotonic())
        if time.monotonic() - since > 3:
            tell(environment, "scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
    return found


def ended(environment, job):
    until(lambda: hurried(environment, job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), f"job {job}")
    return about(environment, job)


def program(tmp_path, text):
    """Lines of a shell that put a program before all others named python."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    path = folder / "python"
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return f"export PATH={folder}:$PATH"


def test_a_stopped_fit_goes_on_and_a_finished_one_is_done(cluster, tmp_path):
    """Told of its limit the first time, it puts its state away; the second time it is done, although told again."""
    kept = tmp_path / "kept"
    work = f"""
echo "$SLURM_RESTART_COUNT $SLURM_CPUS_PER_TASK" >> {tmp_path}/begun.$SLURM_PROCID
until [ -e {kept}/stop ]; do sleep 0.05; done
if [ "${{SLURM_RESTART_COUNT:-0}}" -eq 0 ]; then touch {kept}/stopped; exit 75; fi
"""
    batch = Batch(cpus=2, notice=30, time="00:10:00", setup=program(tmp_path, work), logs=str(tmp_path))
    job = submitted(cluster, tmp_path, fit_script(batch, "fit.toml", 2, 1, "srun", str(kept)))
    first, second = tmp_path / "begun.0", tmp_path / "begun.1"
    for count in (1, 2):

        def begun(count=count):
            hurried(cluster, job)
            return all(p.exists() and len(p.read_text().splitlines()) == count for p in (first, second))

        until(begun, f"start {count}")
        tell(cluster, "scancel", "--signal=USR1", "--batch", job)
    found = ended(cluster, job)
    assert (found["JobState"], found["Restarts"], found["ExitCode"]) == ("COMPLETED", "1", "0:0")
    assert [line.split()[-1] for line in second.read_text().splitlines()] == ["2", "2"]  # cores of each task
    assert (tmp_path / f"mekrr-fit-{job}.log").exists()


def test_a_failed_fit_stays_out_of_the_queue(cluster, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "stopped").touch()  # of a run before
    batch = Batch(cpus=1, notice=30, time="00:10:00", setup=program(tmp_path, "exit 4"))
    found = ended(cluster, submitted(cluster, tmp_path, fit_script(batch, "f.toml", 1, 1, "srun", str(kept))))
    assert (found["JobState"], found["Restarts"], found["ExitCode"]) == ("FAILED", "0", "4:0")


def test_requeues_end(cluster, tmp_path):
    batch = Batch(cpus=1, notice=30, time="00:10:00", setup=program(tmp_path, "exit 75"), requeues=1)
    job = submitted(cluster, tmp_path, fit_script(batch, "f.toml", 1, 1, "srun", str(tmp_path / "kept")))
    found = ended(cluster, job)
    assert (found["JobState"], found["Restarts"]) == ("FAILED", "1")
    assert "requeued 1 times already" in (tmp_path / f"mekrr-fit-{job}.log").read_text()


def test_an_array_is_joined_and_a_run_goes_on(cluster, tmp_path):
    """Parts that all end let the joining job begin; dynamics that are told of their limit go on."""
    work = f"""
case "$*" in
*md*) echo >> {tmp_path}/steps; [ "$(wc -l < {tmp_path}/steps)" -ge 2 ] || exec sleep 600;;
*) echo "$*" >> {tmp_path}/done;;
esac
"""
    batch = Batch(cpus=1, notice=30, time="00:10:00", setup=program(tmp_path, work), mail="nobody", requeues=3)
    array = submitted(cluster, tmp_path, extract_script(batch, ["a.xyz"], "store", 2))
    second = submitted(cluster, tmp_path, finalize_script(batch, "store"), f"--dependency=afterok:{array}")
    run = submitted(cluster, tmp_path, command_script(batch, ["md", "m.mekrr", "a.xyz", "-o", "r.xyz"]))
    until((tmp_path / "steps").exists, "the first steps")
    tell(cluster, "scancel", "--signal=USR1", "--batch", run)
    assert ended(cluster, second)["JobState"] == "COMPLETED"
    parts = (tmp_path / "done").read_text().splitlines()
    assert sorted(line.split()[-1] for line in parts) == ["1/2", "2/2", "store"]
    assert parts[-1] == "-m mekrr_scale store finalize store"
    found = ended(cluster, run)
    assert (found["JobState"], found["Restarts"]) == ("COMPLETED", "1")
