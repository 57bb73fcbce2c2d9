"""Batched spatial and intensity transforms on the device; drawing is apart from applying."""
