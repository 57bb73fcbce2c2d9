"""What the numbers of a label map mean inside the pipeline, where they are class indices."""

UNKNOWN = 255
"""A voxel nobody looked at: it is neither a class nor background, and nothing is learned from it."""
RESERVED = ("mean", "background")
"""What no label and no region is called."""
LONGEST_REGION = 100
"""Letters of its name: it is a part of names of metrics, which MLflow bounds."""
