"""Label maps in the formats of hospitals, each referring to the DICOM series it was made from."""
