"""What keeps detections: one file each, found through `duet.inference.savers.table`.

Every format is written while the source runs, and what is written stays readable if the process is
killed; only `coco.json` is one document and appears when the source ends.
"""
