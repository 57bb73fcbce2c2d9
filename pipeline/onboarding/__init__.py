"""A new organ from a folder of scans, without an editor: `hounsfield add-organ`."""

from pipeline.onboarding.add import add_organ
from pipeline.onboarding.source import NewOrgan, parse_labels

__all__ = ["NewOrgan", "add_organ", "parse_labels"]
