import pandas as pd

from pipeline.metrics.case_table import read_cases


def test_a_case_may_be_called_001_and_a_label_na(tmp_path):
    table = pd.DataFrame(
        {"case": ["001", "001"], "label": ["NA", "b"], "dice": [0.5, None], "hd95": [float("inf")] * 2}
    )
    table.to_csv(tmp_path / "cases.csv", index=False)
    pd.testing.assert_frame_equal(read_cases(tmp_path / "cases.csv"), table)
