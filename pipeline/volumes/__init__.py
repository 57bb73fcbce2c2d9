"""Scans and masks: layouts, readers, geometry, HU calibration, the volume store."""
