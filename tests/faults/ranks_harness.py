"""Starts the processes of a distributed certification as torchrun or SLURM do: a script, run by tests.

Imports take seconds, so the processes are forks of one that has imported everything.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

import certify
from tests.faults.forks import kill_before_access, start


def main() -> None:
    """Run the cases of a JSON list one after the other, and print what became of each."""
    json.dump([run(**case) for case in json.loads(sys.argv[1])], sys.stdout)


def run(
    arguments: Sequence[str], *, out: str, ranks: int, launcher: str = "torchrun", kill: int | None = None
) -> dict[str, Any]:
    """Certify in several processes.

    Args:
        arguments: of certify.py, but for --out, --devices and --strategy.
        out: the folder.
        ranks: how many processes.
        launcher: "torchrun", "slurm", or "lightning": one process, which starts another one.
        kill: the rank that is killed once it has finished an example.

    Returns:
        Exit codes and lines of output, both by rank.
    """
    command = [*arguments, f"--out={out}", f"--devices={ranks}", "--strategy=ddp"]
    if launcher == "lightning":
        log = Path(f"{out}.log")
        _, status = os.waitpid(start(command, log, partial(setattr, sys, "argv", [certify.__file__, *command])), 0)
        return {"codes": [os.waitstatus_to_exitcode(status)], "said": [log.read_text().splitlines()]}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = [Path(f"{out}.rank{rank}.log") for rank in range(ranks)]
    children = [
        start(
            command, log, partial(become, rank, environment(launcher, rank, ranks, port), out if rank == kill else None)
        )
        for rank, log in enumerate(logs)
    ]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return {"codes": codes, "said": [log.read_text().splitlines() for log in logs]}


def environment(launcher: str, rank: int, ranks: int, port: int) -> dict[str, str]:
    """What a launcher tells the process of a rank."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    if launcher == "torchrun":
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
        return {**meeting, **{name: str(value) for name, value in names.items()}, "TORCHELASTIC_RUN_ID": "none"}
    names = {"PROCID": rank, "LOCALID": rank, "NTASKS": ranks, "NTASKS_PER_NODE": ranks, "NNODES": 1, "NODEID": 0}
    given = {"JOB_ID": "7", "JOB_NAME": "certify", "NODELIST": "localhost", "STEP_NODELIST": "localhost"}
    slurm = {f"SLURM_{name}": str(value) for name, value in {**names, **given}.items()}
    return {**meeting, **slurm}


def become(rank: int, variables: dict[str, str], killed: str | None) -> None:
    """Be the process of a rank, killed before it writes its second row to a folder if one is named."""
    if killed is not None:
        kill_before_access(3, f"{killed}/certificates.rank{rank}.csv")
    os.environ.update(variables)
    rank_zero_only.rank = rank  # Lightning has looked for it when it was imported


if __name__ == "__main__":
    main()
