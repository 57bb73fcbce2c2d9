from collections import Counter

import numpy as np
import pandas as pd
import pytest

from pipeline.sampling.weights import MOST, by_label, epoch_rows


def drawn(weights, epochs=1, seed=0):
    return Counter(
        int(row)
        for epoch in range(epochs)
        for row in epoch_rows(np.array(weights, float), np.random.default_rng([seed, epoch]))
    )


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


def test_a_very_rare_label_is_not_learned_by_heart():
    weights = by_label(pd.Series([1] * 99 + [2]), {})
    assert weights[-1] == MOST
    assert (weights[:-1] < 1).all()


@pytest.mark.parametrize("classes", [[0, 0], []])
def test_where_no_label_is_at_a_centre_all_weigh_the_same(classes):
    assert by_label(pd.Series(classes, dtype=int), {}).tolist() == [1.0] * len(classes)


def test_each_row_comes_once_an_epoch_where_all_weigh_the_same():
    assert drawn([1.0] * 50) == dict.fromkeys(range(50), 1)
    # Of what an epoch was before there were weights.
    expected = np.random.default_rng([3, 4]).permutation(50)
    np.testing.assert_array_equal(epoch_rows(np.full(50, 2.0), np.random.default_rng([3, 4])), expected)


def test_a_row_comes_as_often_as_it_weighs():
    weights = np.random.default_rng(0).uniform(0, 3, 40)
    weights[7] = 0
    expected = weights / weights.mean()
    for epoch in range(20):
        once = drawn(weights, seed=epoch)
        assert once.total() == 40
        assert all(abs(once[row] - often) < 1 + 1e-9 for row, often in enumerate(expected))
        assert once[7] == 0
    many = drawn(weights, epochs=400)
    np.testing.assert_allclose([many[row] / 400 for row in range(40)], expected, atol=0.1)


def test_the_order_is_another_in_each_epoch_and_mixes_rows():
    weights = np.array([1.0] * 20 + [3.0] * 20)
    one, other = (epoch_rows(weights, np.random.default_rng([0, epoch])).tolist() for epoch in (0, 1))
    assert one != other
    assert one != sorted(one)
