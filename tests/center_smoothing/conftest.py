from collections.abc import Iterator

import pytest

from center_smoothing import budget


@pytest.fixture(autouse=True)
def _ranks_are_found_anew() -> Iterator[None]:
    """Ranks are cached by budget: a test that breaks a bound must neither meet them nor leave its own."""
    budget._ranks.cache_clear()
    yield
    budget._ranks.cache_clear()
