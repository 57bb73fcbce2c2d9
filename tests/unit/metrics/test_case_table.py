import pandas as pd

from pipeline.metrics.case_table import read_cases


def test_a_case_may_be_called_001_and_a_label_na_and_figures_come_back_to_the_last_digit(tmp_path):
    table = pd.DataFrame(
        {
            "case": ["001"] * 3,
            "label": ["NA", "nan", "b"],
            "dice": [0.9999999999999717, 1e-23, None],
            "hd95": [float("inf")] * 3,
        }
    )
    table.to_csv(tmp_path / "cases.csv", index=False)
    pd.testing.assert_frame_equal(read_cases(tmp_path / "cases.csv"), table, check_exact=True)
