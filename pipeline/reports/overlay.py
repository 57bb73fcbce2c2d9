"""A case as a picture: three planes of the image with the true and the predicted label map on it.

Planes are drawn as radiologists look at them: the patient's right is at the left of the axial and
coronal plane, the front at the left of the sagittal one, the head (in the axial plane the front) at
the top. Millimetres are drawn equally long in every direction, whatever the spacing.
"""

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Scan = NDArray[np.floating]
Labels = NDArray[np.integer]
Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
)
"""Told apart with any colour vision: M. Okabe and K. Ito, Color Universal Design (2008)."""

PANEL = 300
"""Pixels of the longest edge of a plane."""
THUMBNAIL = 160
"""The same of a thumbnail."""
GAP = 8
THIN = 3
"""Pixels between the planes of a thumbnail."""
OPACITY = 0.4
"""Of the area predicted; the truth is an opaque line."""
PLANES = (("axial", "R"), ("coronal", "R"), ("sagittal", "A"))
"""Name and what is at the left, by the axis (Z, Y, X) the plane is cut across."""
SAMPLE = 1_000_000
"""Voxels that percentiles are taken of."""


def display_window(image: Scan, modality: str, clip: tuple[float, float]) -> tuple[float, float]:
    """The intensities drawn black and white.

    Of a CT the plan's `clip`, in HU, twice as wide, for a clip is as narrow as the organs; of an MR
    all but the darkest and brightest half per cent of the image.
    """
    if modality == "CT":
        low, high = clip
        return low - (high - low) / 2, high + (high - low) / 2
    step = max(1, round((image.size / SAMPLE) ** (1 / 3)))
    low, high = np.percentile(image[::step, ::step, ::step], (0.5, 99.5))
    return float(low), float(high)


def overlay_png(
    image: Scan,
    truth: Labels,
    prediction: Labels | None,
    spacing: tuple[float, float, float],
    window: tuple[float, float],
    labels: Mapping[str, int] | None = None,
) -> bytes:
    """Draw a case as PNG: truth as a line, prediction as an area, each label in its colour.

    Across each axis the slice is shown that holds most of the labels, every label counting the same.
    The same case gives the same bytes.

    Args:
        image: (Z, Y, X), canonical axes.
        truth: (Z, Y, X), label values, 0 is the background.
        prediction: like `truth`; None where there is none.
        spacing: millimetres (z, y, x).
        window: intensities drawn black and white.
        labels: name and value of each label; without it, the values found are named by themselves.
    """
    maps = [truth] if prediction is None else [truth, prediction]
    labels = labels or _named_by_value(maps)
    colours = _colours(labels)
    panels = _panels(image, maps, spacing, window, colours, PANEL)
    return _png(_compose(panels, _legend(labels, prediction is not None)))


def thumbnail_png(
    image: Scan,
    truth: Labels,
    spacing: tuple[float, float, float],
    window: tuple[float, float],
    labels: Mapping[str, int],
) -> bytes:
    """Draw a case as a small PNG: the three planes of `overlay_png` without words.

    Args:
        image: (Z, Y, X), canonical axes.
        truth: (Z, Y, X), label values, 0 is the background.
        spacing: millimetres (z, y, x).
        window: intensities drawn black and white.
        labels: name and value of each label; the colours are those of `legend`.
    """
    panels = _panels(image, [truth], spacing, window, _colours(labels), THUMBNAIL)
    width = sum(panel.shape[1] for panel in panels) + THIN * (len(panels) - 1)
    canvas = Image.new("RGB", (width, max(panel.shape[0] for panel in panels)))
    left = 0
    for panel in panels:
        top = (canvas.height - panel.shape[0]) // 2
        canvas.paste(Image.fromarray(panel.astype(np.uint8)), (left, top))
        left += panel.shape[1] + THIN
    return _png(canvas)


def legend(labels: Mapping[str, int]) -> list[tuple[str, Colour]]:
    """The colour each label is drawn in, in the order of the values."""
    colours = _colours(labels)
    return [(name, colours[value]) for name, value in sorted(labels.items(), key=lambda item: item[1])]


def _named_by_value(maps: list[Labels]) -> dict[str, int]:
    values = sorted({int(value) for one in maps for value in np.unique(one)} - {0})
    return {f"label {value}": value for value in values}


def _panels(
    image: Scan,
    maps: list[Labels],
    spacing: tuple[float, float, float],
    window: tuple[float, float],
    colours: Mapping[int, Colour],
    edge: int,
) -> list[NDArray[np.float32]]:
    """The three planes, the longest edge `edge` pixels: the first map as a line, a second as an area."""
    extent = [voxels * millimetres for voxels, millimetres in zip(image.shape, spacing, strict=True)]
    scale = edge / max(extent)
    panels = []
    for axis, index in enumerate(_slices(maps, list(colours))):
        rows, columns = (max(1, round(extent[other] * scale)) for other in range(3) if other != axis)
        panel = _window(_plane(image, axis, index), window, (columns, rows))
        areas = [_resize(_plane(one, axis, index), (columns, rows)) for one in maps]
        if len(areas) > 1:
            _fill(panel, areas[1], colours)
        _outline(panel, areas[0], colours)
        panels.append(panel)
    return panels


def _colours(labels: Mapping[str, int]) -> dict[int, Colour]:
    """A colour a label value, in the order of the values; lighter each time the palette is used up."""
    colours = {}
    for order, value in enumerate(sorted(labels.values())):
        turn, place = divmod(order, len(COLOURS))
        red, green, blue = (round(255 - (255 - part) * 0.55**turn) for part in COLOURS[place])
        colours[value] = (red, green, blue)
    return colours


def _slices(maps: list[Labels], values: list[int]) -> list[int]:
    """Per axis the index of the slice to show; the middle one where nothing is labelled.

    What nobody looked at has a value in the maps, which is none of the `values` of labels.
    """
    shape = maps[0].shape
    weight = [np.zeros(edge) for edge in shape]
    for one in maps:
        places = np.nonzero(np.isin(one, values))
        found = one[places].astype(np.intp)
        share = 1 / np.maximum(np.bincount(found), 1)[found] if found.size else np.zeros(0)
        for axis, indices in enumerate(places):
            weight[axis] += np.bincount(indices, share, minlength=shape[axis])
    return [int(profile.argmax()) if profile.any() else len(profile) // 2 for profile in weight]


def _plane(volume: NDArray[np.generic], axis: int, index: int) -> NDArray[np.generic]:
    """A slice, both of its axes turned round: canonical axes run to the head, the front and the right."""
    plane: NDArray[np.generic] = np.take(volume, index, axis=axis)
    return plane[::-1, ::-1]


def _window(
    plane: NDArray[np.generic], window: tuple[float, float], size: tuple[int, int]
) -> NDArray[np.float32]:
    """The plane as grey RGB (rows, columns, 3), 0 to 255, at `size` (columns, rows) pixels."""
    low, high = window
    grey = (plane.astype(np.float32) - low) / max(high - low, 1e-6)
    picture = Image.fromarray((np.nan_to_num(grey).clip(0, 1) * 255).astype(np.uint8))
    resized = np.asarray(picture.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    return np.repeat(resized[..., None], 3, axis=2)


def _resize(plane: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.int32]:
    picture = Image.fromarray(plane.astype(np.int32))
    return np.asarray(picture.resize(size, Image.Resampling.NEAREST))


def _fill(panel: NDArray[np.float32], area: NDArray[np.int32], colours: Mapping[int, Colour]) -> None:
    for value, colour in colours.items():
        inside = area == value
        panel[inside] = (1 - OPACITY) * panel[inside] + OPACITY * np.array(colour, dtype=np.float32)


def _outline(panel: NDArray[np.float32], area: NDArray[np.int32], colours: Mapping[int, Colour]) -> None:
    for value, colour in colours.items():
        inside = area == value
        panel[inside & ~_eroded(_eroded(inside))] = colour


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without its outermost pixels."""
    padded = np.pad(mask, 1)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _legend(labels: Mapping[str, int], predicted: bool) -> list[tuple[str, Colour | None]]:
    """Entries of text and, for a label, its colour."""
    entries: list[tuple[str, Colour | None]] = [*legend(labels)]
    return [*entries, ("line: truth, area: prediction" if predicted else "line: truth", None)]


def _compose(panels: list[NDArray[np.float32]], legend: list[tuple[str, Colour | None]]) -> Image.Image:
    """The planes side by side, what they are and which side is left above, the legend below."""
    font = ImageFont.load_default(size=17)
    line = 26
    width = sum(panel.shape[1] for panel in panels) + GAP * (len(panels) + 1)
    rows = _wrap(legend, font, width - 2 * GAP)
    height = max(panel.shape[0] for panel in panels)
    canvas = Image.new("RGB", (width, 2 * GAP + height + line * (len(rows) + 1)))
    draw = ImageDraw.Draw(canvas)
    left = GAP
    for panel, (name, side) in zip(panels, PLANES, strict=True):
        draw.text((left, 4), name, fill="white", font=font)
        top = line + (height - panel.shape[0]) // 2
        canvas.paste(Image.fromarray(panel.astype(np.uint8)), (left, top))
        draw.text(
            (left + 4, top + panel.shape[0] // 2 - 10),
            side,
            "white",
            font,
            stroke_width=2,
            stroke_fill="black",
        )
        left += panel.shape[1] + GAP
    for number, entries in enumerate(rows):
        left = GAP
        for text, colour in entries:
            left = _entry(draw, text, colour, (left, line + height + GAP + number * line), font)
    return canvas


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _wrap(
    legend: list[tuple[str, Colour | None]], font: Font, width: int
) -> list[list[tuple[str, Colour | None]]]:
    """The entries in as many rows as they need."""
    rows: list[list[tuple[str, Colour | None]]] = [[]]
    used = 0.0
    for entry in legend:
        needed = _entry_width(entry, font)
        if rows[-1] and used + needed > width:
            rows.append([])
            used = 0
        rows[-1].append(entry)
        used += needed
    return rows


def _entry_width(entry: tuple[str, Colour | None], font: Font) -> int:
    text, colour = entry
    return round(font.getlength(text)) + 16 + (20 if colour else 0)


def _entry(
    draw: ImageDraw.ImageDraw, text: str, colour: Colour | None, at: tuple[int, int], font: Font
) -> int:
    """Write one entry of the legend and return where the next begins."""
    left, top = at
    if colour:
        draw.rectangle((left, top + 4, left + 13, top + 17), fill=colour)
    draw.text((left + (20 if colour else 0), top), text, fill="white", font=font)
    return left + _entry_width((text, colour), font)


def _png(canvas: Image.Image) -> bytes:
    """A palette keeps a picture at a third of its size, and greys and label colours as they are."""
    file = io.BytesIO()
    canvas.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()
