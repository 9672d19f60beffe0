"""Merging: one file per method, one row per method in `table.METHODS`."""
