"""The border: what a run measured, as files that reports, comparisons and people read."""
