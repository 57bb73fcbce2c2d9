import pickle

import pytest

from pipeline.errors import DataError, HounsfieldError, MissingError, ParamsError

CLASSES = [DataError, ParamsError, MissingError]


def test_the_message_is_the_reason_and_the_way_out() -> None:
    error = DataError("case_1: no image", "add it")
    assert str(error) == "case_1: no image: add it"
    assert (error.reason, error.remedy) == ("case_1: no image", "add it")


def test_without_a_remedy_the_message_is_the_reason_alone() -> None:
    assert str(ParamsError("bad value.")) == "bad value."


def test_every_kind_of_failure_has_an_exit_code_of_its_own() -> None:
    codes = [error.exit_code for error in [HounsfieldError, *CLASSES]]
    assert len(set(codes)) == len(codes)
    assert all(0 < code < 256 for code in codes)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_is_whole_after_the_way_between_processes(kind: type[HounsfieldError]) -> None:
    error = kind("case_1: no image", "add it")
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is kind
    assert (str(arrived), arrived.reason, arrived.remedy) == (str(error), error.reason, error.remedy)
