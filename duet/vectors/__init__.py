"""Tensors, fingerprints and task vectors: what a stage changed, exactly."""
