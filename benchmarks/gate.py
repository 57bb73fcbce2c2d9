"""How often the gate is wrong: pairs of models whose truth is known, judged by the rule of `register`.

    python benchmarks/gate.py [--pairs 1000] [--cases 23]

A pair is two models on the same test cases. The Dice of a case and label is that of the case, hard or easy
for both (0.85 on average, deviation 0.05), plus a label's own part (0.02), plus noise of each model (0.02).
The challenger's expected Dice differs by what the row says. Printed for each row: the share of challengers
that were promoted. For an equal one it is the rate of false promotions, which 1 - `confidence` allows for;
for better ones the power.
"""

import argparse
import json

import numpy as np
import pandas as pd

from pipeline.params import RegisterParams
from pipeline.registry.gate import decide

LABELS = ("anterior", "posterior")
ROWS: dict[str, tuple[float, float]] = {
    "worse by 0.01": (-0.01, -0.01),
    "equal": (0.0, 0.0),
    "better by 0.005": (0.005, 0.005),
    "better by 0.01": (0.01, 0.01),
    "better by 0.02": (0.02, 0.02),
    "better by 0.05, one label worse by 0.03": (0.08, -0.03),
}
COLLAPSED = "better by 0.03, a quarter of the cases worse by 0.2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--cases", type=int, default=23)
    given = parser.parse_args()
    params = RegisterParams()
    result = {}
    for name, gains in ROWS.items():
        result[name] = promoted(given.pairs, given.cases, np.array(gains), params)
        print(f"{name}: promoted {100 * result[name]:.1f} %", flush=True)
    result[COLLAPSED] = promoted(given.pairs, given.cases, np.array([0.03, 0.03]), params, collapsed=0.25)
    print(f"{COLLAPSED}: promoted {100 * result[COLLAPSED]:.1f} %")
    print(json.dumps({"pairs": given.pairs, "cases": given.cases} | result))


def promoted(
    pairs: int, count: int, gains: np.ndarray, params: RegisterParams, collapsed: float = 0.0
) -> float:
    """The share of the pairs in which the challenger becomes champion."""
    won = 0
    names = [f"case_{number}" for number in range(count)]
    of_group = round(collapsed * count)
    groups = {"scanner A": names[:of_group], "scanner B": names[of_group:]} if of_group else {}
    for seed in range(pairs):
        rng = np.random.default_rng(seed)
        base = 0.85 + 0.05 * rng.standard_normal((count, 1)) + 0.02 * rng.standard_normal((count, 2))
        own = base + gains + 0.02 * rng.standard_normal((count, 2))
        own[:of_group] -= 0.2
        other = base + 0.02 * rng.standard_normal((count, 2))
        tables = [_table(names, dice.clip(0, 1)) for dice in (own, other)]
        won += decide(tables[0], tables[1], params, groups).promoted
    return won / pairs


def _table(names: list[str], dice: np.ndarray) -> pd.DataFrame:
    rows = {"case": np.repeat(names, 2), "label": np.tile(LABELS, len(names)), "dice": dice.ravel()}
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
