"""The command line, held at a named point: `python -m tests.distributed.paused POINT NUMBER FOLDER arguments...`.

After the call of that number it leaves FOLDER/there-RANK and waits until there is FOLDER/go. A test that acts in
between does so at a point of the program, however fast or busy the machine is.
"""

import os
import sys
import time
from importlib import import_module
from pathlib import Path

POINTS = {
    "state": ("mekrr_scale.distributed.checkpoint", "Checkpoint", "save"),
    "shard": ("mekrr_scale.store.writer", "ShardWriter", "write"),
    "restart": ("mekrr_scale.simulation.restarts", "RestartFile", "save"),
}


def main() -> None:
    point, number, folder, *arguments = sys.argv[1:]
    module, owner, name = POINTS[point]
    kind = getattr(import_module(module), owner)
    work, left = getattr(kind, name), [int(number)]

    def held(*args, **given):
        result = work(*args, **given)
        left[0] -= 1
        if left[0] == 0:
            Path(folder, f"there-{os.environ.get('RANK', '0')}").touch()
            while not Path(folder, "go").exists():
                time.sleep(0.005)
        return result

    setattr(kind, name, held)
    sys.argv[1:] = arguments
    import_module("mekrr_scale.cli").main()


def wait_for(path, processes):
    """Until one of them has come to its point.

    Raises:
        AssertionError: one ended before.
    """
    while not path.exists():
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.005)


if __name__ == "__main__":
    main()
