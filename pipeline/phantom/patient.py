"""A patient of the phantom: all that is random about one case, before it is scanned.

Kept apart from the drawing (`anatomy.py`) and the scanning (`scan.py`), so that a
draw can be looked at, changed, repeated and tested. Anatomy is built of ellipsoids. Lengths are
millimetres and coordinates RAS: x to the patient's right, y to the front, z to the head; the origin
is in the middle of the abdomen. Brightness is HU.
"""

from dataclasses import dataclass

LABELS = {"background": 0, "liver": 1, "spleen": 2, "left_kidney": 3, "right_kidney": 4}

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Ellipsoid:
    """Half axes `radii` around `centre`, turned by `tilt` degrees about x, y and z in that order."""

    centre: Vector
    radii: Vector
    tilt: Vector = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Organ:
    """The union of `parts` less the `bites`; each inlay is an ellipsoid of other HU inside it."""

    name: str
    hu: float
    parts: tuple[Ellipsoid, ...]
    bites: tuple[Ellipsoid, ...] = ()
    inlays: tuple[tuple[Ellipsoid, float], ...] = ()
    confined: bool = True
    """Kept inside the abdominal wall and below the diaphragm."""

    @property
    def label(self) -> int:
        """Value in the label map; 0 for what is not to be segmented."""
        return LABELS.get(self.name, 0)


@dataclass(frozen=True)
class Body:
    """Trunk: a cavity (half width, half depth), the muscle around it, fat around that."""

    cavity: tuple[float, float]
    wall: float
    fat_side: float
    fat_front: float
    fat_back: float
    diaphragm: Vector
    """Height of the diaphragm's rim, of its right dome and of its left dome above the rim."""
    rib_phase: float
    muscle_hu: float
    fat_hu: float
    bone_hu: float

    @property
    def front(self) -> float:
        """Where the skin in front is, as y."""
        return self.cavity[1] + self.wall + self.fat_front

    @property
    def back(self) -> float:
        """Where the skin at the back is, as y."""
        return -(self.cavity[1] + self.wall + self.fat_back)


@dataclass(frozen=True)
class Wave:
    """A displacement `amplitude` * sin x * sin y * sin z, with a wavelength and a phase an axis."""

    amplitude: Vector
    wavelength: Vector
    phase: Vector


@dataclass(frozen=True)
class Protocol:
    """How the patient is scanned and how the file is stored."""

    field_of_view: Vector
    centre: Vector
    slice_spacing: float
    orientation: str
    """Direction of the array's axes in the file, as nibabel names it."""
    position: Vector
    """Of the patient's origin in scanner coordinates."""
    table: float
    """y of the table's top."""
    noise: float
    noise_seed: int


@dataclass(frozen=True)
class Patient:
    """Everything random about one case. `organs` are in painting order: later ones cover earlier ones."""

    body: Body
    organs: tuple[Organ, ...]
    waves: tuple[Wave, ...]
    protocol: Protocol


@dataclass(frozen=True)
class Enhancement:
    """HU of blood and tissue at this patient's time after the contrast agent."""

    liver: float
    spleen: float
    cortex: float
    medulla: float
    aorta: float
    veins: float
    bowel: float
    pancreas: float
