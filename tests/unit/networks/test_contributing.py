from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_network_shown_to_contributors_is_the_one_that_runs():
    shown = (ROOT / "CONTRIBUTING.md").read_text().split("```python\n")[1].split("```")[0]
    assert shown == (ROOT / "pipeline/networks/catalogue/unet_mds.py").read_text()
