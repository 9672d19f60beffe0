"""Detector families: the only code that knows an engine. See `protocol` and `table`."""
