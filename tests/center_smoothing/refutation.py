"""What the Monte Carlo tests count failures against."""

from scipy import stats


def refuted(failures: int, runs: int, alpha: float) -> bool:
    """Whether a failure probability of alpha gives at least so many failures with probability below 1e-4."""
    print(f"{failures} failures in {runs} runs: {failures / runs:.4f}, at most {alpha} promised")
    return bool(stats.binom.sf(failures - 1, runs, alpha) < 1e-4)
