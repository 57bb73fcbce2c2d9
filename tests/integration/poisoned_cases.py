"""Cases that end or hold up the process that works on them, by their name; test_odd_sources.py uses it."""

import os
import resource
import signal
import time

from pipeline.volumes.cases import attempt_case, survey_case

HELD = 100 << 20
"""Bytes that a case holds when it is killed, as the kernel does when memory runs out."""


def attempt(job):
    _poison(job.files.case)
    return attempt_case(job)


def survey(job):
    if job.files.case == "looked_at":
        _poison("aborts")
    return survey_case(job)


def _poison(case):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if case == "aborts":
        os.abort()
    elif case == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif case == "out_of_memory":
        held = bytearray(os.urandom(1)) * HELD
        # Long enough to be seen.
        time.sleep(2)
        os.kill(os.getpid(), signal.SIGKILL)
        del held
    elif case == "hangs":
        time.sleep(600)
    elif case == "raises":
        raise RuntimeError("of a library")
