import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def dicom():
    """The module that makes DICOM files: tests are in no package that it could be imported from."""
    path = Path(__file__).parents[1] / "dicom_by_code.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
