"""Hounsfield: retrain organ segmentation when new scans arrive."""

__version__ = "0.1.0"
