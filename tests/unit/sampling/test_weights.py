import pandas as pd
import pytest

from pipeline.sampling.weights import MOST, by_label


def test_a_rare_label_weighs_as_much_as_a_frequent_one():
    classes = pd.Series([0, 0, *[1] * 6, *[2] * 3])
    weights = by_label(classes, {})
    assert weights[:2].tolist() == [1, 1]
    sums = pd.Series(weights).groupby(classes).sum()
    assert sums[1] == pytest.approx(sums[2])
    assert weights.sum() == pytest.approx(len(classes))


def test_balance_says_what_a_label_weighs_against_the_others():
    classes = pd.Series([*[1] * 6, *[2] * 3, *[3] * 3])
    sums = pd.Series(by_label(classes, {1: 2.0})).groupby(classes).sum()
    assert sums[1] == pytest.approx(2 * sums[2])
    assert sums[2] == pytest.approx(sums[3])


@pytest.mark.parametrize(
    "classes", [[1] * 99 + [2], [1] * 90 + [2] * 2 + [3], [*range(1, 5), *[5] * 50, *[6] * 90]]
)
def test_a_very_rare_label_is_not_learned_by_heart_and_costs_the_others_no_more(classes):
    classes = pd.Series([0, 0, *classes])
    weights = pd.Series(by_label(classes, {}))
    labelled = weights[classes > 0]
    assert labelled.max() == MOST
    assert labelled.mean() == pytest.approx(1)
    # What the rare ones leave, the others share.
    sums = weights[(classes > 0) & (weights < MOST)].groupby(classes).sum()
    assert sums.max() == pytest.approx(sums.min())
    assert (weights[classes == 0] == 1).all()


@pytest.mark.parametrize("classes", [[0, 0], []])
def test_where_no_label_is_at_a_centre_all_weigh_the_same(classes):
    assert by_label(pd.Series(classes, dtype=int), {}).tolist() == [1.0] * len(classes)
