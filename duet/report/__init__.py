"""Reporting: `results.json` in; words, tables, figures and a Markdown report out."""
