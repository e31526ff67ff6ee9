"""The paper's figure 4, total variation: ``python experiments/figure4.py --data mnist-digits --task autoencoder``."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments import panel

main = partial(panel.main, "figure4", "tv")

if __name__ == "__main__":
    main()
