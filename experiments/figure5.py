"""The paper's figure 5, angular distance: ``python experiments/figure5.py --data mnist-digits --task autoencoder``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments import panel


def main(args: Sequence[str] | None = None) -> Path:
    """Run one panel, and return its folder.

    Args:
        args: command-line arguments; default those of the process.

    Raises:
        SystemExit: with code 2 and one line on bad input; what was finished stays on disk.
    """
    return panel.main("figure5", "angular", args)


if __name__ == "__main__":
    main()
