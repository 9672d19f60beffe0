"""RT-DETR on the Ultralytics engine."""
