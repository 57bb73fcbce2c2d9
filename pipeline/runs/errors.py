"""What a run may end with besides success and `Unfinished`; Airflow and people act on the exit code."""

from pipeline.errors import HounsfieldError

NOTHING_CHANGED = 99
"""Exit code of `run open` where every stage is up to date: whatever follows is skipped."""


class Busy(HounsfieldError):
    """Another run of the organ is open."""

    exit_code = 76
