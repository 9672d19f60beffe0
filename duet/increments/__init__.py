"""Increment folders and detector files: what is kept of a stage, without any of its images."""
