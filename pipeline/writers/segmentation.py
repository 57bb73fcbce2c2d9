"""Label maps as DICOM segmentations (SEG), in the study of the series they were made from."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from pipeline.atomic import output_path
from pipeline.errors import DataError
from pipeline.volumes.readers.dicom_files import reading
from pipeline.volumes.readers.dicom_planes import Plane
from pipeline.writers.study import MAKER, STUDY, repeat_study, sources, write_in_utf_8

SERIES_NUMBER = 900
"""Behind the series of the scanner."""
SIDES = ("left", "right")
ABNORMAL = ("tumor", "tumour", "lesion", "mass", "cyst", "metastasis", "gtv")
"""Words of labels that are no organ."""


def write_segmentation(
    path: Path, labels: NDArray[np.uint8], series: Sequence[Path], names: Mapping[str, int], model: str
) -> None:
    """Write a label map as a binary segmentation of a series, whole or not at all.

    Every label is a segment, in the order of the values, also one of which nothing was found. As the standard
    demands, the file repeats who the patient is and which study this is.

    Args:
        path: to write.
        labels: (I, J, K) as the series is read: column, row, slice.
        series: all files of the series, in any order.
        names: value of each label.
        model: what made it, for the description of the series.

    Raises:
        DataError: the series is no volume, or says too little of itself for a segmentation to refer to it.
        MissingError: it cannot be written there.
    """
    images, pixels = _on_images(labels, series)
    numbers = {value: number for number, value in enumerate(sorted(names.values()), start=1)}
    renumbered = np.zeros(256, np.uint8)
    for value, number in numbers.items():
        renumbered[value] = number
    described = sorted(names, key=names.__getitem__)
    with reading(f"a DICOM series of {len(series)} files", "making a segmentation of"):
        found = _segmentation(images, renumbered[pixels], described, model)
        write_in_utf_8(found, described)
        with output_path(path) as temporary:
            found.save_as(temporary)


def _on_images(labels: NDArray[np.uint8], series: Sequence[Path]) -> tuple[list[Dataset], NDArray[np.uint8]]:
    """The source images, and the label map as one plane (row, column) for each of their frames."""
    ordered, headers = sources(series)
    images = list(headers.values())
    planes = labels.transpose(2, 1, 0)
    if "PerFrameFunctionalGroupsSequence" not in images[0]:
        _place_slices(images, ordered)
        return images, planes
    if len(images) > 1:
        raise DataError(
            f"a DICOM series of {len(images)} enhanced objects cannot have one segmentation",
            "write NIfTI, without --format",
        )
    frames = int(images[0].NumberOfFrames)
    if frames > len(ordered):
        raise DataError(
            f"an enhanced object of {frames} frames, {frames - len(ordered)} of them there twice, cannot "
            "have a segmentation",
            "write NIfTI, without --format",
        )
    _place_frames(images[0], ordered)
    # Frames lie in any order in an enhanced object.
    pixels = np.zeros((frames, *planes.shape[1:]), np.uint8)
    for plane, source in zip(planes, ordered, strict=True):
        pixels[source.frame] = plane
    return images, pixels


def _place_slices(images: list[Dataset], planes: Sequence[Plane]) -> None:
    """Give headers of slices one direction and one step, as they were read.

    highdicom takes no directions that differ by rounding, needs a thickness, and repeats a spacing between
    slices that is wrong.
    """
    for image in images[1:]:
        image.ImageOrientationPatient = images[0].ImageOrientationPatient
    images[0].SliceThickness = images[0].SpacingBetweenSlices = _step(planes)


def _place_frames(image: Dataset, planes: Sequence[Plane]) -> None:
    """The same for the frames of an enhanced object, each of which may say it for itself alone."""
    from highdicom import PixelMeasuresSequence, PlaneOrientationSequence

    step, (between_columns, between_rows) = _step(planes), planes[0].spacing
    shared = (image.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    shared.PixelMeasuresSequence = PixelMeasuresSequence([between_rows, between_columns], step, step)
    directions = planes[0].directions.ravel().tolist()
    shared.PlaneOrientationSequence = PlaneOrientationSequence("PATIENT", directions)
    image.SharedFunctionalGroupsSequence = [shared]


def _step(planes: Sequence[Plane]) -> float:
    """Millimetres from a slice to the next; a decimal string has no more than 16 characters."""
    way = planes[-1].position - planes[0].position
    return round(float(np.linalg.norm(way)) / (len(planes) - 1), 6)


def _segmentation(images: list[Dataset], pixels: NDArray[np.uint8], names: list[str], model: str) -> Any:
    from highdicom import UID, AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    release = version("hounsfield")
    algorithm = AlgorithmIdentificationSequence(MAKER, codes.DCM.ArtificialIntelligence, release)
    described = []
    for number, name in enumerate(names, start=1):
        category, kind = _coded(name)
        described.append(
            SegmentDescription(
                segment_number=number,
                segment_label=name[:64],
                segmented_property_category=category,
                segmented_property_type=kind,
                algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
            )
        )
    # highdicom refuses what breaks DICOM's rules, and the character sets of Japan, China and Korea.
    study, source = Dataset(), images[0]
    repeat_study(study, source)
    for keyword in STUDY:
        setattr(source, keyword, None)
    found = Segmentation(
        source_images=images,
        pixel_array=pixels,
        segmentation_type="BINARY",
        segment_descriptions=described,
        series_instance_uid=UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions=release,
        device_serial_number="none",
        series_description=f"Segmentation by {model}"[:64],
        content_label=f"{str(source.get('Modality') or 'IMAGE')[:8]}_SEG",
        specific_character_set=None,
    )
    repeat_study(found, study)
    return found


def _coded(name: str) -> tuple[Any, Any]:
    """Category and type of a label in SNOMED CT, as far as its name is a term there; the side is no part."""
    from pydicom.sr.codedict import codes

    words = [word for word in name.lower().replace("-", "_").split("_") if word and word not in SIDES]
    category = codes.SCT.AnatomicalStructure
    if set(words) & set(ABNORMAL):
        return codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Mass
    keyword = "".join(word.capitalize() for word in words)
    return category, getattr(codes.SCT, keyword, None) or codes.SCT.Organ
