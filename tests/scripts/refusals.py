"""How the scripts refuse what they cannot do."""

from collections.abc import Callable, Sequence

import pytest

import certify


def refused(
    capsys: pytest.CaptureFixture[str], *arguments: str, main: Callable[[Sequence[str]], object] = certify.main
) -> str:
    """The one line of an error with exit code 2, beside those of W&B, whose runs share the console of many tests."""
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    assert exit_info.value.code == 2
    stderr = capsys.readouterr().err
    lines = [line for line in stderr.splitlines() if line and not line.startswith("wandb:")]
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ")
    return lines[0]
