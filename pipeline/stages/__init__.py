"""The seven stages of dvc.yaml: each module reads as the story of its stage."""
