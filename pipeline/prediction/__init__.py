"""`hounsfield predict`: label maps for scans outside the project, by the current model."""
