"""Where trainings run and detectors look at images: on this machine, or on those of a cluster."""
