"""The training loop, its data and its checkpoints."""

CODE = (
    "training",
    "networks",
    "losses",
    "augmentation",
    "sampling",
    "inference",
    "metrics",
    "stages/train.py",
)
"""Below `pipeline`: what a trained network depends on."""
