"""Finished runs side by side: which strategy is better, by how much, and whether that is noise.

Reads `results.json` of each run and the matches it points to; needs no detector and no image.
"""
