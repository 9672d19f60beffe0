"""Runs: what a series needs, done once, resumed after a kill, written down in `results.json`."""
