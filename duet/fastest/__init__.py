"""A detector in the program that runs it fastest here: exported once, checked, measured, kept."""
