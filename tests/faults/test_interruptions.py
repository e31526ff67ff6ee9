"""Certifications that are killed, and go on."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import certify
from results.folder import CertificationFolder

ROOT = Path(certify.__file__).parent
HARNESS = Path(__file__).with_name("kill_harness.py")


def test_twelve_examples_survive_four_kills(
    uninterrupted: Path, contents: Callable[[Path], dict[str, bytes]], tiny_command: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, HARNESS, "--out", out, "--kills=4", *tiny_command], cwd=tmp_path, text=True, timeout=600,
        capture_output=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["code"] == 0
    assert sum(kill["code"] == -9 for kill in told["kills"]) >= 3
    assert contents(out) == contents(uninterrupted)
    assert len(CertificationFolder(out).rows()) == 24
