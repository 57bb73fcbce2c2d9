"""Losses of segmentation training."""
