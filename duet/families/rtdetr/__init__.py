"""RT-DETR on the Ultralytics engine."""

from duet.families.ultralytics import engine as engine
