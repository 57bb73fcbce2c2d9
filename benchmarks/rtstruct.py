"""Contours to voxels: Hounsfield against rt-utils and dcmrtstruct2nii, on real series.

    python -m venv /tmp/tools && /tmp/tools/bin/pip install rt-utils dcmrtstruct2nii
    python -m benchmarks.rtstruct --tools /tmp/tools/bin/python [--data ../shared/data/sarcoma_dicom]

The tools stay in an environment of their own. A patient is a folder with `CT/image/*.dcm` and
`CT/mask/RS.dcm`; its first region of interest is taken. Printed, a line a patient and tool: voxels of
both, Dice, voxels that only one of them has, the share of these at most a pixel from our outline, and
seconds from the file of contours to the mask, the images not counted: the best of `REPEATS`.

rt-utils rounds corners to whole pixels and draws with `cv2.fillPoly`, which fills the pixels that the
outline runs through as well: its masks are about half a pixel larger all around. dcmrtstruct2nii asks
of each centre whether it is inside (`skimage.draw.polygon2mask`), as Hounsfield does, and should give
the same voxels.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers import read_geometry
from pipeline.volumes.readers.rtstruct import names, rasterise

REPEATS = 3
# References to images were lost when the data were de-identified, and rt-utils goes by nothing else; and
# it takes rows for columns, which it is spared here by square images.
RT_UTILS = """
from rt_utils.image_helper import load_sorted_image_series
from rt_utils.rtstruct import RTStruct

series = load_sorted_image_series(images)
columns, rows = series[0].Columns, series[0].Rows
for image in series:
    image.Columns = image.Rows = max(columns, rows)
of_z = {round(float(image.ImagePositionPatient[2]), 2): image.SOPInstanceUID for image in series}

def load():
    global structure
    structure = RTStruct(series, pydicom.dcmread(file))
    for roi in structure.ds.ROIContourSequence:
        for contour in roi.ContourSequence:
            z = round(float(contour.ContourData[2]), 2)
            contour.ContourImageSequence[0].ReferencedSOPInstanceUID = of_z[z]

def convert():
    return structure.get_roi_mask_by_name(name).transpose(1, 0, 2)[:columns, :rows]
"""
DCMRTSTRUCT2NII = """
import SimpleITK
from dcmrtstruct2nii.adapters.convert.rtstructcontour2mask import DcmPatientCoords2Mask
from dcmrtstruct2nii.adapters.input.contours.rtstructinputadapter import RtStructInputAdapter

pydicom.read_file = pydicom.dcmread  # its name until pydicom 3
reader = SimpleITK.ImageSeriesReader()
reader.SetFileNames(reader.GetGDCMSeriesFileNames(images))
image = reader.Execute()

def load():
    global contours
    contours = [roi["sequence"] for roi in RtStructInputAdapter().ingest(file) if roi["name"] == name][0]

def convert():
    mask = DcmPatientCoords2Mask().convert(contours, image, 0, 1)
    return SimpleITK.GetArrayFromImage(mask).transpose(2, 1, 0) > 0
"""
PROGRAM = """
import json, sys, time
import numpy as np
import pydicom

images, file, name, out, repeats = sys.argv[1:]
{tool}
seconds = []
for _ in range(int(repeats)):
    start = time.perf_counter()
    load()
    mask = convert()
    seconds.append(time.perf_counter() - start)
np.save(out, mask)
print(json.dumps(min(seconds)))
"""


def by_tool(python: str, tool: str, patient: Path, name: str) -> tuple[np.ndarray, float]:
    """A tool's mask (I, J, K), and seconds."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "mask.npy"
        arguments = [patient / "image", patient / "mask" / "RS.dcm", name, out, REPEATS]
        program = [python, "-W", "ignore", "-c", PROGRAM.replace("{tool}", tool), *map(str, arguments)]
        said = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True).stdout
        return np.load(out), json.loads(said.splitlines()[-1])


def by_hounsfield(patient: Path, name: str, geometry: Geometry) -> tuple[np.ndarray, float]:
    """Our mask (I, J, K), and seconds."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        mask = rasterise(patient / "mask" / "RS.dcm", name, geometry).array
        seconds.append(time.perf_counter() - start)
    return mask, min(seconds)


def at_outline(mask: np.ndarray) -> np.ndarray:
    """Pixels that touch the change between inside and outside on their slice, corners included."""
    around = np.ones((3, 3, 1), bool)
    return np.asarray(ndimage.binary_dilation(mask, around) & ~ndimage.binary_erosion(mask, around))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", required=True, help="the python of the tools' environment")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/sarcoma_dicom"))
    arguments = parser.parse_args()
    print(
        "patient  tool             voxels   theirs    Dice  only ours  theirs  at outline  ours s  theirs s"
    )
    for patient in sorted(folder / "CT" for folder in arguments.data.iterdir() if folder.is_dir()):
        name = names(patient / "mask" / "RS.dcm")[0]
        geometry = read_geometry(*sorted((patient / "image").glob("*.dcm")))
        ours, our_seconds = by_hounsfield(patient, name, geometry)
        outline = at_outline(ours)
        for tool, program in (("rt-utils", RT_UTILS), ("dcmrtstruct2nii", DCMRTSTRUCT2NII)):
            theirs, seconds = by_tool(arguments.tools, program, patient, name)
            dice = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
            differing = ours != theirs
            near = (differing & outline).sum() / max(1, differing.sum())
            print(
                f"{patient.parent.name:8} {tool:15} {ours.sum():7} {theirs.sum():8} {dice:7.4f} "
                f"{(ours & ~theirs).sum():10} {(theirs & ~ours).sum():7} {near:11.1%} "
                f"{our_seconds:7.3f} {seconds:9.3f}"
            )


if __name__ == "__main__":
    main()
