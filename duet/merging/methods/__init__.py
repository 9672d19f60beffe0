"""One file per merge method; the rows are in `duet.merging.table`."""
