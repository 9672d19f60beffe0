"""Losses of incremental training: functions of outputs, and what a loss of weights adds."""
