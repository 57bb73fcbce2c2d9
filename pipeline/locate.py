"""From the name of a case back to its files."""

import difflib
from pathlib import Path

from pipeline.errors import MissingError
from pipeline.params import load_organ
from pipeline.volumes.layouts import find_layout
from pipeline.workspace import stage_files


def files_of(root: Path, organ: str, case: str) -> list[Path]:
    """Every file of a case, images first, relative to the project.

    Args:
        root: of the project.
        organ: of params.yaml.
        case: as the case table calls it.

    Raises:
        MissingError: there is no such case.
        ParamsError: there is no such organ.
        DataError: the raw scans have no layout that is known.
    """
    params = load_organ(root / "params.yaml", organ).ingest
    raw = stage_files(root, "ingest", organ)["raw"]
    found = {files.case: files for files in find_layout(root / raw, params.layout).cases}
    if case not in found:
        near = difflib.get_close_matches(case, found, n=1)
        raise MissingError(
            f"{raw} holds no case '{case}'",
            f"did you mean '{near[0]}'?" if near else "see the column 'case' of the case table",
        )
    return [raw / path for path in found[case].paths]
