"""Kills a certification again and again, until one run comes to its end: a script, run by tests and by hand.

Imports take seconds, so each certification is a fork of one process that has imported everything. It is killed by
SIGKILL at a random moment: after a random time, or just before a random access to its folder (a file opened, renamed or
removed).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from tests.faults.forks import kill_before_access, start


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--within", type=float, default=0.8, help="seconds after which a process is killed, at most")
    parser.add_argument("--accesses", type=int, default=14, help="accesses after which a process is killed, at most")
    harness, arguments = parser.parse_known_args()
    rng, kills, finished = random.Random(harness.seed), [], [0]
    command = [*arguments, f"--out={harness.out}"]
    while len(kills) < harness.kills:
        at = {"access": rng.randint(1, harness.accesses)}
        if len(kills) % 2 == 0:
            at = {"seconds": rng.uniform(0.0, harness.within)}
        code = run(command, harness.out, **at)
        if code >= 0:  # it came to its end; whatever is killed from here on has nothing to lose but the end itself
            at["ended"] = 1
        kills.append({**at, "code": code})
        finished.append(count_finished(harness.out))
        if any(later < earlier for earlier, later in pairwise(finished)):
            sys.exit(f"finished examples were lost: {finished}")
    code = run(command, harness.out)
    json.dump({"kills": kills, "finished": finished[1:], "code": code}, sys.stdout)


def run(command: Sequence[str], out: Path, *, seconds: float | None = None, access: int | None = None) -> int:
    """Certify in a process of its own, and return its exit code; -9 if it was killed."""
    before = None if access is None else partial(kill_before_access, access, str(out))
    child = start(command, out.with_name(f"{out.name}.log"), before)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def count_finished(out: Path) -> int:
    """Examples with a whole row at each radius."""
    rows: dict[str, set[str]] = {}
    for table in out.glob("certificates*.csv"):
        whole = [line for line in table.read_text().splitlines(keepends=True)[1:] if line.endswith("\n")]
        for cells in csv.reader(whole):
            if len(cells) == 11:
                rows.setdefault(cells[0], set()).add(cells[2])
    return sum(len(radii) == max(map(len, rows.values())) for radii in rows.values())


if __name__ == "__main__":
    main()
