"""The draw of a phantom's patient: the trunk with its bones, muscles and vessels, the organs, the scan.

Every number comes from the generator that is passed in.
"""

import numpy as np

from pipeline.phantom.organs import (
    Floats,
    draw_bowel,
    draw_gallbladder,
    draw_kidney,
    draw_liver,
    draw_spleen,
    draw_stomach,
    placer,
    vector,
)
from pipeline.phantom.patient import Body, Ellipsoid, Enhancement, Organ, Patient, Protocol, Wave

WHOLE_HEIGHT = 600.0
"""Half a length (mm) that no scan reaches the end of."""


def draw_patient(generator: np.random.Generator) -> Patient:
    """Draw one patient of the phantom."""
    scale = generator.uniform(0.95, 1.06, 3)
    body = _draw_body(generator, scale)
    hu = _draw_enhancement(generator)
    organs = (
        _draw_heart(generator, scale, hu),
        *_draw_muscles(generator, scale, body),
        *draw_bowel(generator, scale, hu),
        *draw_stomach(generator, scale, hu),
        draw_liver(generator, scale, hu),
        *draw_gallbladder(generator, scale),
        draw_spleen(generator, scale, hu),
        *draw_kidney(generator, scale, hu, body, "right_kidney"),
        *draw_kidney(generator, scale, hu, body, "left_kidney"),
        *_draw_spine(generator, scale, body),
        *_draw_vessels(generator, scale, hu),
    )
    return Patient(body, organs, _draw_waves(generator), _draw_protocol(generator, body))


def _draw_body(generator: np.random.Generator, scale: Floats) -> Body:
    fat = generator.uniform(0, 1)
    uniform = generator.uniform
    return Body(
        cavity=(float(128 * scale[0]), float(82 * scale[1])),
        wall=uniform(11, 16),
        fat_side=6 + 18 * fat + uniform(0, 4),
        fat_front=5 + 20 * fat + uniform(0, 5),
        fat_back=10 + 8 * fat,
        diaphragm=(float(50 * scale[2]), uniform(48, 60), uniform(40, 54)),
        rib_phase=uniform(0, 30),
        muscle_hu=uniform(58, 80),
        fat_hu=uniform(-108, -92),
        bone_hu=uniform(350, 650),
    )


def _draw_enhancement(generator: np.random.Generator) -> Enhancement:
    """Between the arterial (0) and the late portal venous phase (1), with the spread between people."""
    phase = generator.uniform(0, 1)

    def around(value: float, spread: float) -> float:
        return value + generator.uniform(-spread, spread)

    fatty = generator.uniform(10, 25) if generator.random() < 0.35 else 0.0
    return Enhancement(
        liver=around(102 + 18 * phase, 20) - fatty,
        spleen=around(130 - 6 * phase, 14),
        cortex=around(184 - 8 * phase, 12),
        medulla=around(112 + 48 * phase, 10),
        aorta=around(225 - 90 * phase, 18),
        veins=around(105 + 40 * phase, 12),
        bowel=around(95, 18),
        pancreas=around(105 - 10 * phase, 12),
    )


def _draw_muscles(generator: np.random.Generator, scale: Floats, body: Body) -> tuple[Organ, ...]:
    place = placer(generator, scale, 2, 0.12)
    back = [place((side * 34, -92, 0), (30, 17, WHOLE_HEIGHT)) for side in (-1, 1)]
    psoas = [place((side * 42, -52, -95), (21, 21, 95), (0, side * -6, 0)) for side in (-1, 1)]
    loin = [place((side * 70, -74, -75), (24, 12, 75)) for side in (-1, 1)]
    return (Organ("muscle", body.muscle_hu, (*back, *psoas, *loin), confined=False),)


def _draw_spine(generator: np.random.Generator, scale: Floats, body: Body) -> tuple[Organ, ...]:
    """Vertebrae and discs, their arches and processes, and the canal."""
    place = placer(generator, scale, 1, 0.06)
    column = place((0, -54, 0), (25, 20, WHOLE_HEIGHT))
    marrow = Ellipsoid(column.centre, vector(np.asarray(column.radii) - (4, 4, 0)), column.tilt)
    period, phase = 33 * scale[2], generator.uniform(0, 33)
    heights = [float(step * period + phase) for step in range(-5, 5)]
    discs = tuple((Ellipsoid((0, -54, height), (30, 26, 5)), 90.0) for height in heights)
    canal_y = column.centre[1] - column.radii[1] - 8
    arches = tuple(
        part
        for height in heights
        for part in (
            Ellipsoid((0, canal_y, height + 15), (19, 15, 10)),
            Ellipsoid((0, canal_y - 18, height + 10), (4.5, 15, 11)),
            Ellipsoid((0, canal_y + 3, height + 16), (40, 5.5, 6)),
        )
    )
    canal = Ellipsoid((0, canal_y, 0), (10, 8.5, WHOLE_HEIGHT))
    marrow_hu = float(generator.uniform(150, 260))
    return (
        Organ("arches", body.bone_hu, arches, confined=False),
        Organ("vertebrae", body.bone_hu, (column,), inlays=((marrow, marrow_hu), *discs), confined=False),
        Organ("canal", 25.0, (canal,), confined=False),
    )


def _draw_vessels(generator: np.random.Generator, scale: Floats, hu: Enhancement) -> tuple[Organ, ...]:
    place = placer(generator, scale, 2, 0.15)
    aorta = place((-9, -23, 0), (10.5, 10.5, WHOLE_HEIGHT))
    cava = place((20, -22, 0), (13, 10, WHOLE_HEIGHT))
    renal = tuple(place((side * 30, -30, -20), (26, 4, 4), (0, 0, side * -15)) for side in (-1, 1))
    return (
        Organ("renal_veins", hu.veins, renal),
        Organ("cava", hu.veins, (cava,), confined=False),
        Organ("aorta", hu.aorta, (aorta,), confined=False),
    )


def _draw_heart(generator: np.random.Generator, scale: Floats, hu: Enhancement) -> Organ:
    place = placer(generator, scale, 4, 0.1)
    return Organ("heart", (hu.veins + hu.aorta) / 2, (place((-18, 22, 128), (56, 46, 34)),), confined=False)


def _draw_waves(generator: np.random.Generator) -> tuple[Wave, ...]:
    """Long waves that move organs and the outline together, and short ones that make surfaces uneven."""
    waves = []
    for count, amplitude, shortest, longest in ((4, 6.0, 220, 400), (5, 2.2, 70, 120)):
        for _ in range(count):
            waves.append(
                Wave(
                    vector(generator.uniform(-amplitude, amplitude, 3)),
                    vector(generator.uniform(shortest, longest, 3)),
                    vector(generator.uniform(0, 2 * np.pi, 3)),
                )
            )
    return tuple(waves)


def _draw_protocol(generator: np.random.Generator, body: Body) -> Protocol:
    """A field of view that holds the trunk and the table, as a radiographer would set it."""
    width = 2 * (body.cavity[0] + body.wall + body.fat_side) * 1.05
    depth = body.front - body.back + 44
    width = max(width, depth * 4 / 3)
    slice_spacing = float(generator.choice([5.0, 6.0], p=[0.3, 0.7]))
    return Protocol(
        field_of_view=(float(width), float(width * 3 / 4), float(generator.uniform(228, 252))),
        centre=(
            float(generator.uniform(-5, 5)),
            (body.front + body.back - 20) / 2,
            float(generator.uniform(-4, 4)),
        ),
        slice_spacing=slice_spacing,
        orientation=str(generator.choice(["RAS", "LPS", "LAS"], p=[0.6, 0.3, 0.1])),
        position=vector(np.round(generator.uniform((-20, -30, -900), (20, 30, -600)))),
        table=body.back - float(generator.uniform(2, 6)),
        noise=float(generator.uniform(15, 20)),
        noise_seed=int(generator.integers(2**32)),
    )
