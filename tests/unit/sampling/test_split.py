import pytest

from pipeline.errors import DataError
from pipeline.sampling.split import assign_splits

PATIENTS = [f"patient_{number:03}" for number in range(400)]


def test_new_patients_never_move_old_ones():
    before = assign_splits(PATIENTS[100:200], 0.2, 5, seed=0)
    after = assign_splits(PATIENTS, 0.2, 5, seed=0)
    assert after[100:200] == before


def test_test_set_stays_when_the_number_of_folds_changes():
    five = [split for split, _ in assign_splits(PATIENTS, 0.2, 5, seed=0)]
    three = [split for split, _ in assign_splits(PATIENTS, 0.2, 3, seed=0)]
    assert five == three


def test_a_larger_share_keeps_the_test_cases_of_a_smaller_one():
    small = assign_splits(PATIENTS, 0.1, 5, seed=0)
    large = assign_splits(PATIENTS, 0.3, 5, seed=0)
    assert all(
        later == ("test", -1) for early, later in zip(small, large, strict=True) if early == ("test", -1)
    )


def test_all_cases_of_a_patient_stay_together():
    scans = [patient for patient in PATIENTS for _ in range(3)]
    splits = assign_splits(scans, 0.2, 5, seed=1)
    assert all(len(set(splits[start : start + 3])) == 1 for start in range(0, len(splits), 3))


def test_shares_and_folds_come_out_about_as_asked():
    splits = assign_splits(PATIENTS, 0.2, 5, seed=0)
    test = sum(split == "test" for split, _ in splits)
    assert 56 <= test <= 104  # 80 expected, three standard deviations
    folds = [sum(fold == k for _, fold in splits) for k in range(5)]
    assert sum(folds) == len(PATIENTS) - test
    assert min(folds) >= 40
    assert {fold for split, fold in splits if split == "test"} == {-1}


def test_another_seed_is_another_split():
    assert assign_splits(PATIENTS, 0.2, 5, seed=0) != assign_splits(PATIENTS, 0.2, 5, seed=1)


def test_split_is_the_one_that_frozen_test_sets_were_made_with():
    splits = assign_splits(["a", "b", "c", "d", "e", "f"], 0.3, 5, seed=0)
    train = [("train", fold) for fold in (1, 3, 0, 0, 2)]
    assert splits == [*train, ("test", -1)]


@pytest.mark.parametrize(("share", "empty", "remedy"), [(0.0, "test", "larger"), (1.0, "train", "smaller")])
def test_an_empty_set_is_refused_with_a_way_out(share, empty, remedy):
    with pytest.raises(DataError, match=rf"{empty} set .*split_seed.*{remedy} test_share"):
        assign_splits(PATIENTS[:10], share, 5, seed=0)
