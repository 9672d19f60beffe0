"""Ultralytics YOLO with one-to-many `Detect` heads."""

from duet.families.ultralytics import engine as engine
