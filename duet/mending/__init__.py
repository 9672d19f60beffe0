"""Teaching a merged detector what its specialists know, on images that nobody labelled."""
