"""Runnable examples: one script for each kind of output."""
