"""Means: another smoothed function, its budget and its certificate."""
