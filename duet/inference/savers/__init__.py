"""What keeps detections: one file each, found through `duet.inference.savers.table`.

Of a video or stream every format is written while it runs, and what is written stays readable if
the process is killed; only `coco.json` is one document and appears when the source ends. Of images
all are written at the end, after the annotated copies.
"""
