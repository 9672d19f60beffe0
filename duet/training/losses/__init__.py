"""Losses of incremental training: pure functions over tensors."""
