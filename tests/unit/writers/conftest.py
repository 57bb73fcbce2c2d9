"""What a label map is written for: DICOM series made by code."""

from tests.unit.volumes.conftest import dicom, write_ct_series

__all__ = ["dicom", "write_ct_series"]
