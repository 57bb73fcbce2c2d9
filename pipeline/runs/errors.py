"""What a run may end with besides success and `Unfinished`; Airflow and people act on the exit code."""

from pipeline.errors import DataError, HounsfieldError, MissingError, ParamsError

NOTHING_CHANGED = 99
"""Exit code of `run open` where every stage is up to date: whatever follows is skipped."""
FINAL = {kind.exit_code for kind in (DataError, ParamsError, MissingError)}
"""Exit codes of what a person has to mend: another attempt would not."""


class Busy(HounsfieldError):
    """Another run of the organ is open."""

    exit_code = 76
