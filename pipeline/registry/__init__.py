"""The gate, the MLflow registry and what a champion is."""
