"""Where raw scans come from, if not from a folder: an S3 prefix."""

from pipeline.sources.s3 import SyncSummary, sync_prefix

__all__ = ["SyncSummary", "sync_prefix"]
