"""Measuring: AP per class, the stage matrix, and the indices that summarise it."""
