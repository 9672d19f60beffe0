"""Ultralytics YOLO with one-to-many `Detect` heads."""
