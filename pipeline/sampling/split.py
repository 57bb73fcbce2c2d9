"""Who is trained on and who is kept back: a decision per patient that later data never change."""

import hashlib
from collections.abc import Sequence

from pipeline.errors import DataError

TEST, TRAIN = "test", "train"
NO_FOLD = -1
"""Fold of a test case."""
RULE = "split_rule"


def split_rule(folds: int, seed: int) -> str:
    """By what patients are dealt to folds: of another rule, a fold of the same number holds others."""
    return f"{folds} folds, seed {seed}"


def assign_splits(patients: Sequence[str], test_share: float, folds: int, seed: int) -> list[tuple[str, int]]:
    """The split and the fold of each case, given the patient of each case.

    Both are read off a hash of seed and patient alone. So all cases of a patient stay together, and
    a new patient never moves an old one; the price is that the test set only comes near
    `test_share` of the patients.

    Args:
        patients: one entry a case.
        test_share: expected share of the patients in the test set, 0 to 1.
        folds: number of folds the other patients are dealt to.
        seed: another seed is another split.

    Returns:
        one pair a case: (``"test"``, -1), or (``"train"``, fold) with fold in 0 to `folds` - 1.

    Raises:
        DataError: the test set or the training set would be empty.
    """
    splits = [_assign(patient, test_share, folds, seed) for patient in patients]
    for needed, remedy in ((TEST, "larger"), (TRAIN, "smaller")):
        if all(split != needed for split, _ in splits):
            raise DataError(
                f"none of {len(set(patients))} patients falls into the {needed} set with a test_share of "
                f"{test_share:g} and the split_seed {seed}",
                f"add cases, or take another split_seed or a {remedy} test_share in params.yaml",
            )
    return splits


def _assign(patient: str, test_share: float, folds: int, seed: int) -> tuple[str, int]:
    digest = hashlib.sha256(f"{seed}:{patient}".encode()).digest()
    # Different bytes for the two decisions: a fold must not depend on how near a patient was to the test set.
    if int.from_bytes(digest[:8]) / 2**64 < test_share:
        return TEST, NO_FOLD
    return TRAIN, int.from_bytes(digest[8:16]) % folds
