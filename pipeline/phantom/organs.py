"""The abdominal organs of a phantom's patient: liver, spleen, kidneys, and the bowel around them.

The standard anatomy stands here as centres and half axes in mm (RAS, see `patient.py`); a
patient's `scale` stretches it, and every organ is moved, grown and tilted by the generator.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.phantom.patient import Body, Ellipsoid, Enhancement, Organ, Vector

Floats = NDArray[np.float64]
Place = Callable[..., Ellipsoid]
GAS = -850.0


def placer(generator: np.random.Generator, scale: Floats, move: float, grow: float) -> Place:
    """How to place the ellipsoids of one organ, moved up to `move` mm and grown by up to `grow`.

    The function returned takes centre, half axes and tilt in the standard anatomy, and adds a little
    of its own (1.2 mm, 3 %, 3 degrees), so that an organ's parts vary against each other.
    """
    shift = generator.uniform(-move, move, 3)
    growth = generator.uniform(1 - grow, 1 + grow)

    def place(centre: Vector, radii: Vector, tilt: Vector = (0.0, 0.0, 0.0)) -> Ellipsoid:
        middle = np.asarray(centre) * scale + shift + generator.uniform(-1.2, 1.2, 3)
        half = np.asarray(radii) * scale * growth * generator.uniform(0.97, 1.03, 3)
        return Ellipsoid(vector(middle), vector(half), vector(tilt + generator.uniform(-3, 3, 3)))

    return place


def vector(values: Floats) -> Vector:
    """Three plain floats: a patient holds no arrays, so that two can be compared."""
    x, y, z = (float(value) for value in values)
    return x, y, z


def draw_bowel(generator: np.random.Generator, scale: Floats, hu: Enhancement) -> tuple[Organ, ...]:
    """Loops of small bowel first, the frame of the colon over them."""
    loops = []
    for _ in range(int(generator.integers(40, 52))):
        centre = generator.uniform((-82, -15, -118), (82, 62, 2))
        radii = generator.permutation([15.0, generator.uniform(15, 20), generator.uniform(20, 36)])
        place = placer(generator, scale, 0, 0.15)
        loops.append(_gut(generator, place, vector(centre), vector(radii), hu.bowel, "small_bowel"))
    place = placer(generator, scale, 6, 0.15)
    colon = (
        ((97, -22, -82), (23, 24, 48)),
        ((-102, -28, -60), (18, 19, 78)),
        ((45, 55, -38), (52, 20, 19)),
        ((-45, 55, -30), (52, 19, 19)),
    )
    return (
        *loops,
        *(_gut(generator, place, centre, radii, hu.bowel - 15, "colon") for centre, radii in colon),
    )


def _gut(
    generator: np.random.Generator, place: Place, centre: Vector, radii: Vector, wall: float, name: str
) -> Organ:
    """A piece of gut: an enhanced wall, a content of its own, and often gas, which rises to the front."""
    outer = place(centre, radii)
    inner = Ellipsoid(outer.centre, vector(np.asarray(outer.radii) - 3.5), outer.tilt)
    content = generator.choice(
        [generator.uniform(0, 40), generator.uniform(60, 130), generator.uniform(140, 260)],
        p=[0.35, 0.5, 0.15],
    )
    inlays = [(inner, float(content))]
    if generator.random() < (0.7 if name == "colon" else 0.2):
        rise = (0, 0.4 * inner.radii[1], 0)
        gas = np.asarray(inner.radii) * (0.75, 0.55, 0.8)
        inlays.append((Ellipsoid(vector(np.asarray(inner.centre) + rise), vector(gas), inner.tilt), GAS))
    return Organ(name, wall, (outer,), inlays=tuple(inlays))


def draw_stomach(generator: np.random.Generator, scale: Floats, hu: Enhancement) -> tuple[Organ, ...]:
    """The stomach with its content and gas, and the pancreas behind it."""
    place = placer(generator, scale, 5, 0.15)
    parts = (
        place((-48, 0, 62), (34, 38, 36)),
        place((-48, 38, 28), (30, 27, 42), (25, 0, 0)),
        place((-8, 46, 2), (40, 19, 18), (0, 20, 0)),
    )
    content = float(generator.uniform(10, 60))
    lumen = [
        (Ellipsoid(part.centre, vector(np.asarray(part.radii) - 5), part.tilt), content) for part in parts
    ]
    body = parts[1]
    gas = Ellipsoid(
        vector(np.add(body.centre, (0, 8, 6))),
        vector(np.multiply(body.radii, (0.65, 0.4, generator.uniform(0.3, 0.7)))),
        body.tilt,
    )
    pancreas = (
        place((10, 8, 2), (22, 15, 18)),
        place((-28, 2, 18), (44, 11, 12), (0, 20, -12)),
    )
    return (
        Organ("pancreas", hu.pancreas, pancreas),
        Organ("stomach", hu.bowel - 20, parts, inlays=(*lumen, (gas, GAS))),
    )


def draw_liver(generator: np.random.Generator, scale: Floats, hu: Enhancement) -> Organ:
    """Two lobes, hollowed from below and behind, with veins and in some patients lesions."""
    place = placer(generator, scale, 4, 0.04)
    right, left = place((70, 2, 32), (69, 85, 95)), place((14, 42, 50), (70, 35, 37), (0, -8, 0))
    under = place((16, 16, -36), (54, 48, 52))
    behind = place((-4, -38, 30), (34, 28, 100))
    veins = (
        place((48, -8, 62), (5, 34, 5), (0, 0, -55)),
        place((42, 12, 66), (4.5, 34, 5), (10, 0, -20)),
        place((50, 2, 36), (34, 6, 6), (0, 15, 10)),
        place((80, -10, 30), (28, 5, 5), (0, 25, -30)),
    )
    lesions = _draw_lesions(generator, right, 0.45) + _draw_lesions(generator, left, 0.1)
    inlays = (
        *((vein, hu.veins + 20) for vein in veins),
        *((lesion, hu.liver - drop) for lesion, drop in lesions),
    )
    return Organ("liver", hu.liver, (right, left), (under, behind), inlays)


def _draw_lesions(
    generator: np.random.Generator, inside: Ellipsoid, chance: float
) -> list[tuple[Ellipsoid, float]]:
    """None, or one to three hypodense lesions inside an ellipsoid, each with the HU it lacks."""
    if generator.random() >= chance:
        return []
    lesions = []
    for _ in range(int(generator.integers(1, 4))):
        direction = generator.normal(size=3)
        direction *= generator.uniform(0.2, 0.75) / np.linalg.norm(direction)
        centre = np.asarray(inside.centre) + direction * inside.radii
        radii = generator.uniform(0.12, 0.26) * min(inside.radii) * generator.uniform(0.85, 1.15, 3)
        lesions.append((Ellipsoid(vector(centre), vector(radii)), float(generator.uniform(35, 80))))
    return lesions


def draw_gallbladder(generator: np.random.Generator, scale: Floats) -> tuple[Organ, ...]:
    """Bile in the liver's lower face; every fifth patient has none."""
    if generator.random() < 0.2:
        return ()
    place = placer(generator, scale, 4, 0.25)
    bile = float(generator.uniform(0, 20))
    return (Organ("gallbladder", bile, (place((42, 38, 2), (14, 24, 17), (20, 0, 0)),)),)


def draw_spleen(generator: np.random.Generator, scale: Floats, hu: Enhancement) -> Organ:
    """Hollowed by the stomach; a few have lesions."""
    place = placer(generator, scale, 6, 0.09)
    whole = place((-94, -30, 46), (39, 52, 52), (-20, 0, 12))
    stomach_side = place((-50, -2, 50), (34, 46, 80))
    lesions = tuple((lesion, hu.spleen - drop) for lesion, drop in _draw_lesions(generator, whole, 0.15))
    return Organ("spleen", hu.spleen, (whole,), (stomach_side,), lesions)


def draw_kidney(
    generator: np.random.Generator, scale: Floats, hu: Enhancement, body: Body, name: str
) -> tuple[Organ, ...]:
    """A kidney in its fat: cortex, darker pyramids of medulla, and the sinus, which is not kidney."""
    right = name == "right_kidney"
    side = 1 if right else -1
    place = placer(generator, scale, 6, 0.04)
    middle = (side * 67.0, -46.0, -26.0 if right else -14.0)
    whole = place(middle, (29, 26, 56), (8, side * 9, 0))
    centre, radii = np.asarray(whole.centre), np.asarray(whole.radii)
    around = Ellipsoid(whole.centre, vector(radii + generator.uniform(2, 9)), whole.tilt)
    sinus = Ellipsoid(
        vector(centre - (side * radii[0] * 0.72, -5, 0)), vector(radii * (0.62, 0.42, 0.36)), whole.tilt
    )
    pelvis = Ellipsoid(sinus.centre, vector(np.asarray(sinus.radii) * (1.1, 0.35, 0.4)), whole.tilt)
    pyramids = tuple(
        (
            Ellipsoid(
                vector(centre + radii * (side * 0.3 * np.cos(turn), 0.45 * np.sin(turn), height)),
                vector(radii * (0.33, 0.33, 0.15)),
            ),
            hu.medulla,
        )
        for height in (-0.6, -0.22, 0.16, 0.54)
        for turn in np.radians([-75, 0, 75])
    )
    return (
        Organ("perirenal_fat", body.fat_hu, (around,)),
        Organ(name, hu.cortex, (whole,), (sinus,), pyramids),
        Organ("renal_pelvis", float(generator.uniform(10, 60)), (pelvis,)),
    )
