"""Coordinate-wise medians: another smoothed function, its budget and its certificate."""
