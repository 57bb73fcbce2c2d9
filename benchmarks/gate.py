"""How often the gate is wrong: pairs of models whose truth is known, judged by the rule of `register`.

    python -m benchmarks.gate [--pairs 1000] [--cases 23] [--scans 1]

A pair is two models on the same test cases. The Dice of a case and label is that of the case, hard or easy
for both (0.85 on average, deviation 0.05), plus a label's own part (0.02), plus noise of each model (0.02).
With `--scans`, a patient has so many cases, which share all of that but for a noise of 0.004.
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
    parser.add_argument("--scans", type=int, default=1, help="of a patient; a divisor of the cases")
    parser.add_argument("--only", choices=[*ROWS, COLLAPSED], help="a row alone")
    parser.add_argument("--as-if-independent", action="store_true", help="every case is of its own patient")
    given = parser.parse_args()
    params = RegisterParams()
    result = {}
    for name, gains in (ROWS | {COLLAPSED: (0.03, 0.03)}).items():
        if given.only in (None, name):
            result[name] = promoted(given, np.array(gains), params, collapsed=0.25 * (name == COLLAPSED))
            print(f"{name}: promoted {100 * result[name]:.1f} %", flush=True)
    asked = {key: getattr(given, key) for key in ("pairs", "cases", "scans", "as_if_independent")}
    print(json.dumps(asked | result))


def promoted(
    given: argparse.Namespace, gains: np.ndarray, params: RegisterParams, collapsed: float = 0.0
) -> float:
    """The share of the pairs in which the challenger becomes champion."""
    won, count, scans = 0, given.cases, given.scans
    names = [f"case_{number}" for number in range(count)]
    patients = {name: f"patient {number // scans}" for number, name in enumerate(names)}
    of_group = round(collapsed * count)
    groups = {"scanner A": names[:of_group], "scanner B": names[of_group:]} if of_group else {}
    for seed in range(given.pairs):
        rng = np.random.default_rng(seed)
        many = count // scans
        base = 0.85 + 0.05 * rng.standard_normal((many, 1)) + 0.02 * rng.standard_normal((many, 2))
        own = base + gains + 0.02 * rng.standard_normal((many, 2))
        other = base + 0.02 * rng.standard_normal((many, 2))
        if scans > 1:
            own, other = (np.repeat(dice, scans, axis=0) for dice in (own, other))
            own, other = (dice + 0.004 * rng.standard_normal((count, 2)) for dice in (own, other))
        own[:of_group] -= 0.2
        tables = [_table(names, dice.clip(0, 1)) for dice in (own, other)]
        known = {} if given.as_if_independent else patients
        won += decide(tables[0], tables[1], params, groups, patients=known).promoted
    return float(won / given.pairs)


def _table(names: list[str], dice: np.ndarray) -> pd.DataFrame:
    rows = {"case": np.repeat(names, 2), "label": np.tile(LABELS, len(names)), "dice": dice.ravel()}
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
