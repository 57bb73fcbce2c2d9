"""Errors a user can act on: each message names the case, the value and the way out.

The command line prints the message alone and leaves with the class's exit code; so it does, with 1, where the
system refuses a file for want of room or permission. Any other exception is a bug and keeps its traceback
(exit code 1).
"""

from typing import NoReturn


class HounsfieldError(Exception):
    """A failure the user can mend.

    Args:
        reason: what is wrong, naming the case and the value.
        remedy: what to do about it; tables and pages show it in a column of its own.
    """

    exit_code = 1

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(f"{reason}: {remedy}" if remedy else reason)
        self.reason = reason
        self.remedy = remedy


class DataError(HounsfieldError):
    """The data cannot be used as they are."""

    exit_code = 2


class ResourceError(DataError):
    """The data may be good, but this machine could not work on them; another run may."""


class ParamsError(HounsfieldError):
    """`params.yaml` or `dvc.yaml` says something that cannot be meant."""

    exit_code = 3


class MissingError(HounsfieldError):
    """Something that should be there first is not: a file, a model, a tool."""

    exit_code = 4


class Unfinished(HounsfieldError):
    """It was stopped or could not be done now; given again, it goes on from where it was.

    The code is EX_TEMPFAIL of sysexits.h: Airflow tries such a task again.
    """

    exit_code = 75


def refuse_unreadable(error: OSError) -> NoReturn:
    """Raise what a person is told of a folder that may not be looked into.

    Raises:
        DataError: naming the folder.
    """
    raise DataError(
        f"{error.filename} cannot be read ({error.strerror})", "see who may read it, or take it out of there"
    ) from None


def refuse_to_pass_over(error: OSError) -> None:
    """For `os.walk`, which would pass over a folder that it may not look into, and so over the cases in it.

    Every disk has a `lost+found`, which is root's.

    Raises:
        DataError: naming the folder.
    """
    if not str(error.filename).rstrip("/").endswith("/lost+found"):
        refuse_unreadable(error)
