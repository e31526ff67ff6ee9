"""Parts of benchmarks/versus_paper.py."""
