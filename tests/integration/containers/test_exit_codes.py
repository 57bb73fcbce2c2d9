"""What Airflow does with the code a command ends with."""

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from hounsfield_airflow.runners import judge

from pipeline.errors import DataError, MissingError, ParamsError, ResourceError, Unfinished
from pipeline.runs.errors import NOTHING_CHANGED


def test_a_training_that_was_asked_to_end_is_tried_again() -> None:
    said = ["step 3: loss 1.000, Dice 0.500", "error the training was stopped after step 5, which is saved"]
    with pytest.raises(AirflowException, match=r"^the training was stopped after step 5") as raised:
        judge(Unfinished.exit_code, said)
    assert not isinstance(raised.value, AirflowFailException)


@pytest.mark.parametrize("error", [DataError, ResourceError, ParamsError, MissingError])
def test_what_a_person_has_to_mend_is_not(error: type[DataError]) -> None:
    with pytest.raises(AirflowFailException, match="the training has collapsed"):
        judge(error.exit_code, ["error the training has collapsed"])


def test_without_anything_to_do_a_task_is_skipped_and_with_success_nothing_is_raised() -> None:
    judge(0, [])
    with pytest.raises(AirflowSkipException):
        judge(NOTHING_CHANGED, [])
