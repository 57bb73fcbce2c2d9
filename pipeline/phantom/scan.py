"""The CT scan of a phantom's patient: painted structure by structure, with partial volume, shading and noise.

Arrays are (X, Y, Z) in RAS order, as NIfTI has them, not (Z, Y, X) as in the volume store.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from pipeline.phantom.patient import Body, Ellipsoid, Organ, Patient, Protocol, Wave

Array = NDArray[np.float32]
Box = tuple[slice, slice, slice]

MATRIX = (88, 66)
"""Columns (x) and rows (y) of every slice; the field of view decides their spacing."""
AIR, LUNG, SKIN, TABLE_SHELL, TABLE_FOAM = -1000.0, -830.0, 20.0, 150.0, -900.0
REACH = 25.0
"""No wave moves a point further, in mm."""
EVERYWHERE: Box = (slice(None), slice(None), slice(None))


@dataclass(frozen=True)
class Scan:
    """`hu` int16 and `labels` uint8, both (X, Y, Z) in RAS order; `affine` to scanner mm, RAS."""

    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class Canvas:
    """What is painted on: the scan as it stands, and the patient's coordinates (mm) of every voxel.

    All arrays are (X, Y, Z). Two structures that share a voxel are mixed in it by volume; its label
    is of the last one that fills more than half.
    """

    points: tuple[Array, Array, Array]
    axes: tuple[Array, Array, Array]
    hu: Array
    labels: NDArray[np.uint8]

    def paint(self, share: Array, hu: float | Array, label: int = 0, box: Box = EVERYWHERE) -> None:
        """Mix `hu` into the voxels of `box`, by the share of each that the structure fills."""
        self.hu[box] += share * (np.asarray(hu, np.float32) - self.hu[box])
        self.labels[box][share > 0.5] = label


def render(patient: Patient, size: float = 1.0) -> Scan:
    """Scan `patient`, with `size` times the usual number of voxels an axis and the same anatomy.

    Equal patients give equal scans.
    """
    axes, spacing = _grid(patient.protocol, size)
    canvas = _blank(axes, patient.waves)
    trunk = _paint_trunk(canvas, patient.body, patient.protocol.table)
    room = _room(canvas, patient.body)
    for organ in patient.organs:
        _paint_organ(canvas, organ, room)
    canvas.paint(_ribs(canvas, patient.body), patient.body.bone_hu)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = np.asarray(patient.protocol.position) + [float(axis[0]) for axis in axes]
    return Scan(_expose(canvas.hu, trunk, patient.protocol), canvas.labels, affine)


def coverage(inside: Array) -> Array:
    """Share of each voxel where the sampled function `inside` is positive, to first order.

    Near its surface the function is taken as a plane, and the share as a ramp. The ramp is as wide
    as the norm of the differences along the three axes: it has then the spread that the function
    has over a voxel, whatever the voxel's shape and the plane's direction.
    """
    change = np.sqrt(sum(gradient**2 for gradient in np.gradient(inside)))
    share: Array = np.clip(0.5 + inside / np.maximum(change, np.float32(1e-6)), 0, 1)
    return share


def _grid(protocol: Protocol, size: float) -> tuple[tuple[Array, Array, Array], NDArray[np.float64]]:
    """Voxel centres along x, y and z in the patient's mm, and the spacing (x, y, z)."""
    columns, rows = (round(count * size) for count in MATRIX)
    width, depth, height = protocol.field_of_view
    thickness = protocol.slice_spacing / size
    spacing = np.array([width / columns, depth / rows, thickness])
    counts = (columns, rows, round(height / thickness))
    x, y, z = (
        (middle + step * (np.arange(count) - (count - 1) / 2)).astype(np.float32)
        for middle, step, count in zip(protocol.centre, spacing, counts, strict=True)
    )
    return (x, y, z), spacing


def _blank(axes: tuple[Array, Array, Array], waves: Sequence[Wave]) -> Canvas:
    """Air everywhere; the coordinates are bent by the waves, so what is painted is bent too."""
    x, y, z = np.meshgrid(*axes, indexing="ij")
    for wave in waves:
        sines = (
            np.sin(2 * np.pi * axis / length + phase).astype(np.float32)
            for axis, length, phase in zip(axes, wave.wavelength, wave.phase, strict=True)
        )
        shape = np.einsum("i,j,k->ijk", *sines)
        for coordinate, amplitude in zip((x, y, z), wave.amplitude, strict=True):
            coordinate += np.float32(amplitude) * shape
    return Canvas((x, y, z), axes, np.full(x.shape, AIR, np.float32), np.zeros(x.shape, np.uint8))


def _paint_trunk(canvas: Canvas, body: Body, table: float) -> Array:
    """Paint the table, skin, fat, the wall of muscle, the cavity and the lungs; return the trunk's shares."""
    _paint_table(canvas, table)
    skin = _trunk_ring(canvas, body, 0)
    trunk = coverage(skin)
    canvas.paint(trunk, SKIN)
    canvas.paint(coverage(_trunk_ring(canvas, body, 2.5)), body.fat_hu)
    canvas.paint(coverage(_cavity(canvas, body, body.wall)), body.muscle_hu)
    cavity = coverage(_cavity(canvas, body, 0))
    canvas.paint(cavity, body.fat_hu)
    above = _above_diaphragm(canvas, body)
    canvas.paint(cavity * coverage(above + 3), body.muscle_hu)
    canvas.paint(cavity * coverage(above), LUNG)
    return trunk


def _paint_table(canvas: Canvas, table: float) -> None:
    """A carbon shell around foam, hollowed for the patient, and not bent with them."""
    x, y, _ = canvas.axes
    below = (table + 0.0008 * x[:, None] ** 2 - y[None, :])[..., None] + np.zeros_like(canvas.hu)
    edge = (190 - np.abs(x))[:, None, None]
    canvas.paint(coverage(np.minimum(np.minimum(below, 26 - below), edge)), TABLE_SHELL)
    canvas.paint(coverage(np.minimum(np.minimum(below - 5, 21 - below), edge - 5)), TABLE_FOAM)


def _trunk_ring(canvas: Canvas, body: Body, depth: float) -> Array:
    """Positive inside the trunk's outline, `depth` mm under the skin."""
    half_width = body.cavity[0] + body.wall + body.fat_side - depth
    half_depth = (body.front - body.back) / 2 - depth
    return _superellipse(canvas, (body.front + body.back) / 2, half_width, half_depth)


def _cavity(canvas: Canvas, body: Body, margin: float) -> Array:
    """Positive inside the abdominal cavity grown by `margin` mm."""
    return _superellipse(canvas, 0.0, body.cavity[0] + margin, body.cavity[1] + margin)


def _superellipse(canvas: Canvas, middle: float, half_width: float, half_depth: float) -> Array:
    """About the distance (mm) to the surface of a column of rounded-rectangular section; positive inside."""
    x, y, _ = canvas.points
    radius = (np.abs(x / half_width) ** 2.4 + np.abs((y - middle) / half_depth) ** 2.4) ** (1 / 2.4)
    distance: Array = (1 - radius) * np.float32(min(half_width, half_depth))
    return distance


def _above_diaphragm(canvas: Canvas, body: Body) -> Array:
    """Height (mm) above the diaphragm: two domes over a rim that is lower at the back."""
    x, y, z = canvas.points
    rim, right, left = body.diaphragm
    domes = [
        height * np.exp(-(((x - middle) / 62) ** 2) - ((y - 8) / 72) ** 2)
        for middle, height in ((62, right), (-62, left))
    ]
    return np.asarray(z - rim - domes[0] - domes[1], np.float32)


def _room(canvas: Canvas, body: Body) -> Array:
    """Share of each voxel that abdominal organs may fill."""
    return coverage(np.minimum(_cavity(canvas, body, -2), -4 - _above_diaphragm(canvas, body)))


def _ribs(canvas: Canvas, body: Body) -> Array:
    """Rings within the wall, sloping down to the front and ending at the costal margin."""
    _, y, z = canvas.points
    across = _cavity(canvas, body, body.wall / 2) / 4.5
    along = (np.mod(z + 0.5 * y - body.rib_phase, 30) - 15) / 6
    margin = (z - 12 - 0.7 * y) / 6
    rings = np.minimum(1 - np.hypot(across, along), margin)
    return coverage(rings.astype(np.float32))


def _paint_organ(canvas: Canvas, organ: Organ, room: Array) -> None:
    box = _box(canvas, organ.parts)
    if box is None:
        return
    points = [coordinate[box] for coordinate in canvas.points]
    share = np.maximum.reduce([_share(points, part) for part in organ.parts])
    for bite in organ.bites:
        share *= 1 - _share(points, bite)
    if organ.confined:
        share *= room[box]
    hu = np.full(share.shape, organ.hu, np.float32)
    for inlay, value in organ.inlays:
        hu += _share(points, inlay) * (np.float32(value) - hu)
    canvas.paint(share, hu, organ.label, box)


def _share(points: Sequence[Array], ellipsoid: Ellipsoid) -> Array:
    """Share of each voxel at `points` that the ellipsoid fills."""
    unit = _rotation(ellipsoid) / np.asarray(ellipsoid.radii)
    offsets = [
        coordinate - np.float32(middle) for coordinate, middle in zip(points, ellipsoid.centre, strict=True)
    ]
    squares = np.zeros_like(points[0])
    for column in unit.T.astype(np.float32):
        squares += (offsets[0] * column[0] + offsets[1] * column[1] + offsets[2] * column[2]) ** 2
    return coverage(1 - np.sqrt(squares))


def _rotation(ellipsoid: Ellipsoid) -> NDArray[np.float64]:
    """Columns: the ellipsoid's own axes."""
    matrix: NDArray[np.float64] = Rotation.from_euler("xyz", ellipsoid.tilt, degrees=True).as_matrix()
    return matrix


def _box(canvas: Canvas, parts: Sequence[Ellipsoid]) -> Box | None:
    """The part of the grid that can hold the ellipsoids, or None where the scan does not reach them."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for part in parts:
        half = np.sqrt(((_rotation(part) * part.radii) ** 2).sum(axis=1)) + REACH
        low = np.minimum(low, np.asarray(part.centre) - half)
        high = np.maximum(high, np.asarray(part.centre) + half)
    ranges = []
    for axis, first, last in zip(canvas.axes, low, high, strict=True):
        start, stop = int(np.searchsorted(axis, first)), int(np.searchsorted(axis, last))
        # A difference along an axis needs two voxels.
        if stop - start < 2:
            return None
        ranges.append(slice(start, stop))
    return ranges[0], ranges[1], ranges[2]


def _expose(hu: Array, trunk: Array, protocol: Protocol) -> NDArray[np.int16]:
    """Calibrated HU with the scanner's faults: shading of the trunk, and noise with a grain."""
    generator = np.random.default_rng(protocol.noise_seed)
    white, grain, shading = generator.standard_normal((3, *hu.shape), dtype=np.float32)
    # Wrapped, because any other border makes the noise stronger there.
    grain = gaussian_filter(grain, (0.9, 0.9, 0.6), mode="wrap")
    shading = gaussian_filter(shading, [count / 6 for count in hu.shape], mode="wrap")
    noise = 0.7 * white + 0.7 * grain / grain.std()
    exposed = hu + protocol.noise * noise + 6 * trunk * shading / shading.std()
    clipped: NDArray[np.int16] = np.clip(np.rint(exposed), -1024, 3071).astype(np.int16)
    return clipped
