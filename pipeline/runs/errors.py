"""What a run may end with besides success; Airflow and people act on the exit code."""

from pipeline.errors import HounsfieldError

NOTHING_CHANGED = 99
"""Exit code of `run open` where every stage is up to date: whatever follows is skipped."""


class Unfinished(HounsfieldError):
    """The step was stopped or could not be done now; given again, it goes on from where it was."""

    exit_code = 75


class Busy(HounsfieldError):
    """Another run of the organ is open."""

    exit_code = 76
