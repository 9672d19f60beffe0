"""Detecting objects in images: sources in, detections and annotated images out."""
