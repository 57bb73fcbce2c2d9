"""A new organ from a folder or a bucket of scans, without an editor: `hounsfield add-organ`, `fetch`."""

from pipeline.onboarding.add import add_organ
from pipeline.onboarding.fetch import Fetched, add_organ_from_prefix, fetch_organ
from pipeline.onboarding.labels import parse_labels
from pipeline.onboarding.source import NewOrgan

__all__ = ["Fetched", "NewOrgan", "add_organ", "add_organ_from_prefix", "fetch_organ", "parse_labels"]
