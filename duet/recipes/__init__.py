"""Recipes: one YAML is one merge of kept increments, detectors or foreign files."""
