"""Detector folders as files of other programs, checked against the detector in memory."""
