"""All systems beside each other: one organ, the same patches, the same budget, the same frozen test cases."""
