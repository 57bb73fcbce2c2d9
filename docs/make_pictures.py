"""Make the pictures of the documentation from what `make demo` left: `python docs/make_pictures.py`."""

from pathlib import Path

import pandas as pd

from pipeline.inference.judge import predictions
from pipeline.inference.model import load_model
from pipeline.reports.overlay import display_window, overlay_png
from pipeline.volumes.geometry import to_canonical
from pipeline.workspace import project_root, stage_files

ORGAN = "abdomen"


def main() -> None:
    """Overlay of the test patient whose Dice is the median one."""
    root = project_root()
    files = {role: root / path for role, path in stage_files(root, "evaluate", ORGAN).items()}
    dice = pd.read_csv(files["cases"]).groupby("case")["dice"].mean().sort_values()
    median = dice.index[len(dice) // 2]
    accepted = pd.read_parquet(files["accepted"])
    model = load_model(files["models"])
    chosen = accepted[accepted["case"] == median]
    for judged in predictions(model, chosen, files["raw"]):
        image = model.calibrated(judged.case, judged.scans)[0]
        label, found = (to_canonical(one, judged.geometry) for one in (judged.truth, judged.predicted))
        window = display_window(image, model.config["modality"], (-60.0, 140.0))
        picture = overlay_png(image, label, found, judged.geometry.spacing, window, model.config["labels"])
        target = Path(__file__).parent / "pictures" / f"{ORGAN}.png"
        target.write_bytes(picture)
        print(f"{target}: {judged.case}, mean Dice {dice[judged.case]:.3f}")


if __name__ == "__main__":
    main()
