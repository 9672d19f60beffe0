"""What the families on the Ultralytics engine share: its taming, files, data and training loop."""

from duet.families.ultralytics import engine as engine
