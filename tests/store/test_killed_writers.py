"""Writers that are killed, and reads that are watched."""

import random
import subprocess
import sys
from pathlib import Path

from mekrr_scale.store import FeatureStore, verify
from mekrr_scale.store.format import read_sealed


def test_killed_writers_lose_nothing(tmp_path, toy_file, checkpoint):
    """50 SIGKILLs where files change: every published shard is whole, and the end is the same."""
    script = tmp_path / "write.py"
    script.write_text(SERVER)
    command = [sys.executable, str(script), str(toy_file), str(checkpoint)]
    whole = tmp_path / "whole"
    generator = random.Random(0)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        points = _request(server, whole, 0)
        expected = FeatureStore(whole)
        assert points >= 8 * len(list(whole.glob("*.h5")))  # two files each: opened, synced, renamed, folder synced
        kills, folder, number = 0, tmp_path / "killed0", 0
        while kills < 50:
            finished = _request(server, folder, generator.randint(1, points // 2))
            kills += not finished
            for path in sorted(folder.glob("shard-*.h5")):
                sidecar = path.with_name(path.name + ".json")
                if sidecar.exists():
                    info = read_sealed(sidecar)["shard"]
                    assert path.stat().st_size == info["bytes"]
                assert path.read_bytes() == (whole / path.name).read_bytes()
            if finished:
                assert FeatureStore(folder).id == expected.id
                number += 1
                folder = tmp_path / f"killed{number}"
        assert number > 3
        assert _request(server, folder, 0)
        assert FeatureStore(folder).id == expected.id
        assert verify(folder).ok
        server.stdin.close()


SERVER = '''
"""Forks a writer for every line "folder point": it dies at that point, or says how many there were."""
import os, signal, sys
from mekrr_scale.backbones import BackboneSpec, load_backbone
from mekrr_scale.pipeline import ExtractPlan, extract
from mekrr_scale.store import FeatureStore, FeatureWriter  # here once, not in every fork
from mekrr_scale.structures import read_structures
import torch
torch.set_num_threads(1)
spec = BackboneSpec("schnet", checkpoint=sys.argv[2])
load_backbone(spec)
next(iter(read_structures(sys.argv[1])))
plan = ExtractPlan(spec, derivatives=4, strain=True, dtype="float64", shard_bytes=3000, group_key="trajectory")

def watched(folder, last):
    """Count what changes files in a folder, and die before the last one."""
    seen = []
    def point():
        seen.append(1)
        if len(seen) == last:
            os.kill(os.getpid(), signal.SIGKILL)
    def hook(event, args):
        writes = event in ("os.rename", "os.remove") or (event == "open" and isinstance(args[2], int) and args[2] & 3)
        if writes and str(args[0]).startswith(folder):
            point()
    sync = os.fsync
    def synced(descriptor):
        point()
        sync(descriptor)
    sys.addaudithook(hook)
    os.fsync = synced
    return seen

for line in sys.stdin:
    folder, last = line.split()
    child = os.fork()
    if child == 0:
        seen = watched(folder, int(last))
        extract(sys.argv[1], folder, plan)
        print(len(seen), flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        print(0 if os.WIFSIGNALED(status) else -1, flush=True)
'''


def _request(server, folder: Path, last: int) -> int:
    """Have a store written by a writer that dies at a point, counted from 1; how many there were if it finished."""
    server.stdin.write(f"{folder} {last}\n")
    server.stdin.flush()
    points = int(server.stdout.readline())
    assert points >= 0, "the writer failed"
    return points
