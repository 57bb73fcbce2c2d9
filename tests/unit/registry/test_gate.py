import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.params import RegisterParams
from pipeline.registry.comparison import expanded_level, paired_dice
from pipeline.registry.gate import decide

PARAMS = RegisterParams(resamples=500)
RUNS = 200


def figures(dice, labels=("left", "right")):
    """A table as cases.csv has it, from Dice (cases, labels)."""
    dice = np.asarray(dice, dtype=float)
    cases, classes = dice.shape
    return pd.DataFrame(
        {
            "case": np.repeat([f"case_{number:03}" for number in range(cases)], classes),
            "label": np.tile(labels, cases),
            "dice": dice.ravel(),
        }
    )


def share_promoted(gains, cases=20, noise=0.02):
    """How often a challenger is promoted whose expected Dice is higher by `gains` (one a class).

    Hard cases are hard for both models; on top of that each model has noise of its own.
    """
    promoted = 0
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        base = 0.85 + 0.05 * rng.standard_normal((cases, 1)) + 0.02 * rng.standard_normal((cases, 2))
        theirs = base + noise * rng.standard_normal((cases, 2))
        ours = base + np.asarray(gains) + noise * rng.standard_normal((cases, 2))
        promoted += decide(figures(ours.clip(0, 1)), figures(theirs.clip(0, 1)), PARAMS).promoted
    return promoted / RUNS


def test_a_worse_challenger_is_hardly_ever_promoted():
    assert share_promoted([-0.01, -0.01]) <= 0.01


@pytest.mark.parametrize("noise", [0.002, 0.02])
def test_an_equal_challenger_is_rarely_promoted_however_alike_the_two_are(noise):
    assert share_promoted([0, 0], noise=noise) <= 0.1


def test_an_equal_challenger_is_rarely_promoted_by_four_cases():
    assert share_promoted([0, 0], cases=4) <= 0.1


def test_an_equal_challenger_is_rarely_promoted_by_three_cases_and_a_class_three_cases_have_rarely_passes():
    assert share_promoted([0, 0], cases=3) <= 0.08
    passed = 0
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        champion = np.tile(rng.uniform(0.8, 0.9, (20, 1)), 2)
        champion[3:, 1] = np.nan
        gains = [0.03, -PARAMS.margin] + 0.004 * rng.standard_normal((20, 2))
        passed += decide(figures(champion + gains), figures(champion), PARAMS).promoted
    assert passed / RUNS <= 0.08, "worse by the margin, which is one in twenty"


def test_a_clearly_better_challenger_is_nearly_always_promoted():
    assert share_promoted([0.03, 0.03]) >= 0.98


def test_better_on_average_but_worse_on_one_class_is_refused():
    assert share_promoted([0.08, -0.03]) <= 0.01


@pytest.mark.parametrize(("worse", "gains"), [("left", [-0.05, 0.1]), ("right", [0.1, -0.05])])
def test_the_reason_names_the_class_that_got_worse_with_its_figures(worse, gains):
    champion = np.full((10, 2), 0.8)
    decision = decide(figures(champion + np.array(gains)), figures(champion), PARAMS)
    assert not decision.promoted
    (reason,) = [reason for reason, met in zip(decision.reasons, decision.met, strict=True) if not met]
    assert reason.startswith(f"{worse}: Dice 0.7500 against the champion's 0.8000 in 10 cases")
    assert reason.endswith("; may be worse, by the margin of 0.01.")
    assert decision.reasons[-1].endswith("; better.")
    assert "-0.0500" in reason
    assert "may be worse" in reason
    assert decision.evidence["overall"]["difference"] == 0.025


def test_the_first_model_needs_only_the_minimum():
    first = decide(figures(np.full((1, 2), 0.5)), None, PARAMS)
    assert first.promoted
    assert first.reasons[-1] == "There is no champion yet, so there is none to beat."
    refused = decide(figures(np.full((9, 2), 0.499)), None, PARAMS)
    assert not refused.promoted
    assert "0.4990, below the minimum of 0.5" in refused.reasons[0]


def test_a_better_challenger_below_the_minimum_is_refused():
    champion = np.full((9, 2), 0.3)
    assert not decide(figures(champion + 0.1), figures(champion), PARAMS).promoted


def test_the_same_figures_are_not_better():
    same = figures(np.linspace(0.7, 0.9, 20).reshape(10, 2))
    assert not decide(same, same, PARAMS).promoted


def test_two_pairs_are_too_few_and_three_may_do():
    champion = np.full((3, 2), 0.8)
    decision = decide(figures(champion[:2] + 0.1), figures(champion[:2]), PARAMS)
    assert not decision.promoted
    assert "only 2 test cases" in " ".join(decision.reasons)
    assert decide(figures(champion + 0.1), figures(champion), PARAMS).promoted


def test_the_bound_is_a_quantile_of_all_that_drawing_the_patients_again_can_give():
    gains = np.array([[0.04, 0.01], [0.0, np.nan], [0.02, -0.03], [-0.01, 0.05], [0.03, 0.02], [0.2, 0.0]])
    patient = [0, 0, 1, 2, 3, 4]
    champion = np.where(np.isnan(gains), np.nan, 0.8)
    whose = {f"case_{number:03}": f"patient {one}" for number, one in enumerate(patient)}
    params = RegisterParams(resamples=50_000)
    decision = decide(figures(champion + gains), figures(champion), params, patients=whose)
    means = []
    for drawn in itertools.product(range(5), repeat=5):
        cases = np.concatenate([np.flatnonzero(np.equal(patient, one)) for one in drawn])
        means.append(np.nanmean(gains[cases], axis=0))
    level = expanded_level(params.confidence, 5)
    found = decision.evidence["overall"]
    assert found["lower_bound"] == pytest.approx(np.quantile(np.mean(means, axis=1), level), abs=5e-4)
    assert found["difference"] == pytest.approx(np.nanmean(gains, axis=0).mean(), abs=1e-6)
    assert (found["cases"], found["patients"]) == (6, 5)
    for column, label in enumerate(["left", "right"]):
        bound = decision.evidence["classes"][label]["lower_bound"]
        assert bound == pytest.approx(np.quantile(np.array(means)[:, column], level), abs=5e-4)


def test_of_three_patients_the_bound_is_that_of_student():
    from scipy.stats import t

    gains = np.array([0.02, 0.03, 0.04])
    champion = np.full((3, 1), 0.8)
    params = RegisterParams(resamples=50_000)
    ours, theirs = figures(champion + gains[:, None], ["left"]), figures(champion, ["left"])
    bound = decide(ours, theirs, params).evidence["overall"]["lower_bound"]
    expected = gains.mean() - t.ppf(params.confidence, 2) * gains.std(ddof=1) / math.sqrt(3)
    assert bound == pytest.approx(expected, abs=2e-4)


def test_a_class_hardly_ever_there_is_too_few_though_the_others_are_many():
    champion = np.full((9, 2), 0.8)
    champion[2:, 1] = math.nan
    decision = decide(figures(champion + 0.1), figures(champion), PARAMS)
    assert not decision.promoted
    assert decision.evidence["classes"]["left"]["cases"] == 9
    assert decision.evidence["classes"]["right"]["cases"] == 2


def test_a_pair_undefined_on_both_sides_is_left_out():
    champion = np.full((9, 2), 0.8)
    # In some of the resamples none of the three is drawn.
    champion[:6, 1] = math.nan
    decision = decide(figures(champion + 0.1), figures(champion), PARAMS)
    assert decision.promoted
    assert decision.evidence["overall"]["cases"] == 9
    assert decision.evidence["classes"]["right"]["cases"] == 3
    assert "no test case tells" not in decision.reasons[0]
    assert decision.evidence["classes"]["right"]["difference"] == pytest.approx(0.1)


def test_rightly_predicting_nothing_beats_predicting_something_where_there_is_nothing():
    silent = np.full((6, 2), 0.8)
    silent[0, 1] = math.nan  # truth and prediction are empty
    noisy = silent.copy()
    noisy[0, 1] = 0.0  # truth is empty, prediction is not
    better = decide(figures(silent), figures(noisy), PARAMS).evidence["classes"]["right"]
    worse = decide(figures(noisy), figures(silent), PARAMS).evidence["classes"]["right"]
    assert better["cases"] == worse["cases"] == 6
    assert better["difference"] == pytest.approx(1 / 6, abs=1e-6)
    assert worse["difference"] == pytest.approx(-1 / 6, abs=1e-6)


def test_a_class_the_challenger_lost_is_refused_and_a_new_one_is_welcome():
    both, one = np.full((9, 2), 0.8), np.full((9, 1), 0.9)
    lost = decide(figures(one, ["left"]), figures(both), PARAMS)
    assert not lost.promoted
    assert "right: the champion segments it, the challenger does not" in " ".join(lost.reasons)
    many = decide(figures(one, ["left"]), figures(np.full((9, 5), 0.8), ["left", *"dbca"]), PARAMS)
    assert [reason[0] for reason, met in zip(many.reasons, many.met, strict=True) if not met][:4] == [*"abcd"]
    welcome = decide(figures(both + 0.1), figures(one - 0.1, ["left"]), PARAMS)
    assert welcome.promoted
    assert "right: new, the champion does not segment it." in welcome.reasons


def test_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(1)
    ours, theirs = figures(rng.uniform(0.6, 0.9, (9, 2))), figures(rng.uniform(0.6, 0.9, (9, 2)))
    shuffled = theirs.sample(frac=1, random_state=1)
    assert decide(ours, theirs, PARAMS) == decide(ours, shuffled, PARAMS)


def test_other_cases_missing_rows_and_rows_there_twice_are_errors():
    table = figures(np.full((5, 2), 0.8))
    with pytest.raises(DataError, match="different cases"):
        decide(table, table[table["case"] != "case_000"], PARAMS)
    with pytest.raises(DataError, match="1 of 10 pairs"):
        decide(table, table.iloc[1:], PARAMS)
    with pytest.raises(DataError, match="case_000: the challenger has two rows for the label 'left'"):
        decide(pd.concat([table, table.head(1)]), table, PARAMS)


def test_a_label_that_no_test_case_has_is_named():
    dice = np.full((5, 2), 0.9)
    dice[:, 1] = math.nan
    decision = decide(figures(dice), None, PARAMS)
    assert decision.promoted
    assert "of 0.5; how good it is at right, no test case tells." in decision.reasons[0]


def test_evidence_is_json_also_where_nothing_is_defined():
    nothing = figures(np.full((5, 2), math.nan))
    decision = decide(nothing, nothing, PARAMS)
    assert not decision.promoted
    json.dumps(decision.evidence, allow_nan=False)


def test_a_first_model_of_which_no_dice_is_defined_is_refused():
    decision = decide(figures(np.full((5, 2), math.nan)), None, PARAMS)
    assert not decision.promoted
    assert decision.reasons[0] == "Mean Dice: undefined, no test case has a label to find."


def test_the_level_widens_for_few_cases_and_is_the_plain_one_for_many():
    assert expanded_level(0.95, 100_000) == pytest.approx(0.05, abs=1e-4)
    assert expanded_level(0.95, 4) < expanded_level(0.95, 20) < 0.05
    # Of ten patients the normal's 2.385 deviations of n are the 2.262 of n - 1 that Student asks for.
    assert expanded_level(0.975, 10) == pytest.approx(0.00855, abs=1e-5)


def cases(*numbers):
    return [f"case_{number:03}" for number in numbers]


def test_better_on_average_but_collapsed_on_a_group_of_cases_is_refused_with_its_name():
    champion = np.full((20, 2), 0.8) + np.linspace(-0.01, 0.01, 20)[:, None]
    challenger = champion + 0.06
    challenger[:4] -= 0.2
    groups = {"scanner A": cases(*range(4)), "scanner B": cases(*range(4, 20))}
    params = RegisterParams(resamples=500, margin=0.1, confidence=0.6)
    assert decide(figures(challenger), figures(champion), params).promoted
    decision = decide(figures(challenger), figures(champion), params, groups)
    assert not decision.promoted
    (reason,) = [reason for reason in decision.reasons if "collapsed" in reason]
    assert reason.startswith("scanner A: Dice -0.1400 in 4 cases")
    assert decision.evidence["subgroups"]["scanner A"]["champion"] == round(champion[:4].mean(), 6)
    found = decision.evidence["subgroups"]["scanner B"]
    assert found["challenger"] == pytest.approx(found["champion"] + 0.06, abs=2e-6)
    assert (found["difference"], found["cases"]) == (0.06, 16)
    refused = [reason for reason, met in zip(decision.reasons, decision.met, strict=True) if not met]
    assert refused == [reason]
    params = RegisterParams(resamples=500, margin=0.1, confidence=0.6, collapse=0.14)
    assert decide(figures(challenger), figures(champion), params, groups).promoted, "not more than that"


def test_three_cases_are_a_group_that_may_collapse():
    champion = np.full((20, 2), 0.8)
    challenger = champion + 0.1
    challenger[:3] -= 0.4
    params = RegisterParams(resamples=500, margin=0.1, confidence=0.6)
    decision = decide(figures(challenger), figures(champion), params, {"thick": cases(0, 1, 2)})
    assert not decision.promoted


def test_what_is_undefined_in_one_model_is_compared_as_right_and_in_both_left_out():
    labels = ("left", "right", "never there")
    challenger = figures([[0.5, np.nan, np.nan], [0.6, 0.7, np.nan]], labels)
    champion = figures([[0.3, 0.0, np.nan], [0.4, 0.6, np.nan]], labels)
    pairs = paired_dice(challenger, champion.iloc[::-1])
    assert pairs[["challenger", "champion"]].to_numpy().tolist() == [
        [0.5, 0.3],
        [1.0, 0.0],
        [0.6, 0.4],
        [0.7, 0.6],
    ]
    assert list(pairs["case"]) == [*cases(0, 0), *cases(1, 1)]


def test_where_no_group_collapsed_the_worst_is_told():
    champion = np.full((20, 2), 0.8)
    challenger = champion + 0.05
    challenger[:5] -= 0.06
    groups = {"thick": cases(*range(5)), "all": cases(*range(5, 20)), "two": cases(0, 1)}
    decision = decide(figures(challenger), figures(champion), PARAMS, groups)
    assert decision.promoted
    assert decision.reasons[-1] == (
        "Of 2 groups of cases none collapsed; the least difference is -0.0100 (thick, 5 cases)."
    )


FOLDS = {"0": 0.88, "1": 0.87, "2": 0.89, "3": 0.45}


def test_an_ensemble_with_a_network_that_failed_is_refused_and_the_network_named():
    decision = decide(figures(np.full((6, 2), 0.8)), None, PARAMS, folds=FOLDS | {"1": 0.009})
    assert not decision.promoted
    (refused,) = [reason for reason, met in zip(decision.reasons, decision.met, strict=True) if not met]
    assert refused.startswith("The network without fold 1: Dice 0.0090 on the fold it left out, the median")
    assert decision.evidence["folds"]["1"] == 0.009


def test_of_two_networks_one_half_as_good_as_the_other_is_enough():
    decision = decide(figures(np.full((6, 2), 0.8)), None, PARAMS, folds={"0": 0.9, "1": 0.4})
    assert not decision.promoted
    assert decision.reasons[1].startswith("The network without fold 1: Dice 0.4000")


@pytest.mark.parametrize("folds", [FOLDS, {"0": 0.009}, {}])
def test_folds_that_differ_or_are_not_known_are_no_collapse(folds):
    decision = decide(figures(np.full((6, 2), 0.8)), None, PARAMS, folds=folds)
    assert decision.promoted
    told = any("Of 4 networks none collapsed; the least" in reason for reason in decision.reasons)
    assert told == (len(folds) == 4)
    assert told == any(reason.endswith(" is 0.4500 (fold 3).") for reason in decision.reasons)


def test_a_rank_test_stands_beside_the_bootstrap():
    from scipy.stats import wilcoxon

    rng = np.random.default_rng(0)
    champion = rng.uniform(0.7, 0.9, (15, 2))
    gains = rng.normal(0.01, 0.02, (15, 2))
    champion[3, 1] = gains[3, 1] = np.nan
    decision = decide(figures(champion + gains), figures(champion), PARAMS)
    expected = wilcoxon(np.nanmean(gains, axis=1), alternative="greater").pvalue
    assert decision.evidence["overall"]["rank_p"] == pytest.approx(expected, abs=1e-6)
    same = decide(figures(champion), figures(champion), PARAMS)
    assert same.evidence["overall"]["rank_p"] == 1


def share_promoted_of_equals(patients, scans, known):
    """How often an equal challenger is promoted on scans of patients that suit one of the two."""
    promoted = 0
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        base = 0.85 + 0.03 * rng.standard_normal((patients, 1, 1))
        own, other = (
            base
            + 0.01 * rng.standard_normal((patients, 1, 2))
            + 0.003 * rng.standard_normal((patients, scans, 2))
            for _ in range(2)
        )
        tables = [figures(dice.reshape(-1, 2).clip(0, 1)) for dice in (own, other)]
        whose = {f"case_{number:03}": f"patient {number // scans}" for number in range(patients * scans)}
        promoted += decide(*tables, PARAMS, patients=whose if known else {}).promoted
    return promoted / RUNS


def test_scans_of_one_patient_are_no_independent_witnesses():
    assert share_promoted_of_equals(12, 5, known=True) <= 0.1
    assert share_promoted_of_equals(12, 5, known=False) > 0.15, "they would be taken for it"


def test_three_patients_are_needed_however_many_scans_they_have():
    champion = np.full((8, 2), 0.8)
    whose = {f"case_{number:03}": f"patient {number % 2}" for number in range(8)}
    decision = decide(figures(champion + 0.1), figures(champion), PARAMS, patients=whose)
    assert not decision.promoted
    assert "only 8 test cases of 2 patients can be compared, 3 patients are needed" in decision.reasons[1]
    decision = decide(figures(champion + 0.1), figures(champion), PARAMS, patients={"case_000": "case_001"})
    assert decision.promoted
    assert "in 8 cases, difference" in decision.reasons[1], "a patient may be called as a case of another"


def test_a_case_that_a_model_has_learned_from_is_not_compared():
    champion = np.full((8, 2), 0.8)
    champion[:3] = 0.99
    ours, theirs = figures(np.full((8, 2), 0.85)), figures(champion)
    assert not decide(ours, theirs, PARAMS).promoted
    learned = {"case_000", "case_001", "case_002", "somebody"}
    kept = theirs[~theirs["case"].isin(learned)]
    decision = decide(ours, kept, PARAMS, learned=learned)
    assert decision.promoted
    assert decision.reasons[1].startswith("3 of 8 test cases are left out of the comparison")
    assert decision.evidence["overall"]["cases"] == 5
    assert len(paired_dice(ours, kept)) == 10
    with pytest.raises(DataError, match="different cases"):
        decide(ours, kept, PARAMS)


def test_a_champion_that_cannot_be_judged_is_not_replaced():
    decision = decide(figures(np.full((8, 2), 0.9)), None, PARAMS, obstacle="The champion is of MR")
    assert not decision.promoted
    assert decision.reasons[-1] == (
        "The champion is of MR; if that is on purpose, take the alias 'champion' away in MLflow."
    )
