"""The nouns that a user of Python holds: series, run, increment, detector, evaluation."""
