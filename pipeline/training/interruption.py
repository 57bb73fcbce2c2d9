"""Asked to end, by SIGTERM or once by Ctrl-C, a training finishes its step and saves it."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from pipeline.errors import Unfinished
from pipeline.training.distributed import several
from pipeline.training.exchange import any_of

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAID = b"asked to end: finishing the step and saving it\n"


class GivenUp(Exception):
    """A look at the watched fold was given up."""


class EndRequest:
    """Whether this process was asked to end."""

    def __init__(self) -> None:
        self.made = False

    def agreed(self) -> bool:
        """Whether this process or another one of the training was asked to end: all end after one step."""
        return any_of(self.made)

    def look(self, network: nn.Module, watch: Callable[[], float]) -> float | None:
        """What `watch` returns, or None if it was asked to end meanwhile: whole volumes take minutes.

        Args:
            network: with which it looks; before each of its passes it is asked whether to go on.
            watch: looks at the watched fold.
        """

        def go_on(*_: Any) -> None:
            # Of several processes each looks at some cases, and all wait for what they see together.
            if self.made and not several():
                raise GivenUp

        hook = network.register_forward_pre_hook(go_on)
        try:
            return watch()
        except GivenUp:
            return None
        finally:
            hook.remove()

    @staticmethod
    def told(done: int) -> Unfinished:
        """What to end with after `done` steps."""
        return Unfinished(
            f"the training was stopped after step {done}, which is saved",
            "given again, it goes on from there",
        )


@contextmanager
def end_requests() -> Iterator[EndRequest]:
    """Note a request to end while the context lasts; a second one ends the process as it always did."""
    request = EndRequest()
    if threading.current_thread() is not threading.main_thread():
        # Nobody but the main thread may be told of signals.
        yield request
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(_signal: int, _frame: Any) -> None:
        request.made = True
        restore()
        # Nothing of Python's may be written to here: it may be what was interrupted.
        os.write(2, SAID)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number, handler in before.items():
        # What is ignored, as nohup asks for, stays so.
        if handler != signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
