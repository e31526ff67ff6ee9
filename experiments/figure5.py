"""The paper's figure 5, angular distance: ``python experiments/figure5.py --data mnist-digits --task autoencoder``."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments import panel

main = partial(panel.main, "figure5", "angular")

if __name__ == "__main__":
    main()
