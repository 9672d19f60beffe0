"""D-FINE of Hugging Face transformers: real-time, end-to-end, no suppression, Apache-2.0."""

from duet.families.dfine import engine as engine
