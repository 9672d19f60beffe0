"""duet: teach a real-time detector new classes in new domains without the old images."""

__version__ = "0.1.0"
