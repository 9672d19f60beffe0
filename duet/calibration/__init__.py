"""Scores that mean the same before and after an increment: maps of log-odds, and thresholds."""
