"""Ways to keep old outputs while something new is learned; one file each."""
