"""The pipeline as Airflow DAGs: `dvc.yaml` rendered, never copied.

Nothing here does any work: every task is a command of `hounsfield` in a directory.
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
"""The clone of the project that this file is in."""

# Airflow puts `dags/` on the path of Python, not the project around it.
if str(CHECKOUT) not in sys.path:
    sys.path.append(str(CHECKOUT))
