"""A rank of a job whose first rank is frozen at a point of the program: what the others meet next."""

import os
import signal
import sys

from mekrr_scale.cli.job import job, job_bar


def main() -> None:
    point = sys.argv[1]
    with job(timeout=2.0) as group, job_bar(group, "rows") as bar:
        group.barrier()
        if group.rank == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        if point == "progress":  # asks the store, which the first rank holds
            for _ in range(10**6):
                bar.advance()
        group.barrier()


if __name__ == "__main__":
    main()
