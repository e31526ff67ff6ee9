"""What the scripts say on stderr."""


def said_by_us(stderr: str) -> list[str]:
    """The one line, without those of W&B, whose runs share the console of a process that runs many tests."""
    lines = [line for line in stderr.splitlines() if line and not line.startswith("wandb:")]
    assert len(lines) == 1, stderr
    return lines
