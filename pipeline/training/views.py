"""Volumes as the second network of a composition sees them: with maps, within a region, or in a box."""

from collections.abc import Hashable, Mapping
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.inference.composition import Given, Gives, bounds
from pipeline.labels import UNKNOWN
from pipeline.sampling.boxes import Index, patch_start
from pipeline.volumes.geometry import Floats


class Volume(Protocol):
    """Image and label map of a case, of which boxes can be read."""

    @property
    def channels(self) -> int:
        """Of the image."""

    @property
    def shape(self) -> Index:
        """(Z, Y, X)."""

    def box(self, start: tuple[int, ...], stop: tuple[int, ...]) -> Floats:
        """Image and label (C + 1, z, y, x) of the voxels from `start` to before `stop`."""

    def image(self) -> Floats:
        """(C, Z, Y, X)."""

    def label(self) -> NDArray[np.uint8]:
        """(Z, Y, X), class indices."""


class _View:
    """A volume that is another one, seen in some way."""

    def __init__(self, volume: Volume, given: Given) -> None:
        self._volume, self._given = volume, given

    @property
    def channels(self) -> int:
        return self._volume.channels

    @property
    def shape(self) -> Index:
        return self._volume.shape

    def box(self, start: tuple[int, ...], stop: tuple[int, ...]) -> Floats:
        raise NotImplementedError

    def image(self) -> Floats:
        return self.box((0, 0, 0), self.shape)[:-1]

    def label(self) -> NDArray[np.uint8]:
        label: NDArray[np.uint8] = self.box((0, 0, 0), self.shape)[-1].astype(np.uint8)
        return label

    def judged(self, found: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return self._volume.label(), self._whole(found)

    def _whole(self, found: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return found


class WithMaps(_View):
    """With the maps of the classes as further channels, from 0 to 255."""

    @property
    def channels(self) -> int:
        """Of image and maps."""
        return self._volume.channels + len(self._given)

    def box(self, start: tuple[int, ...], stop: tuple[int, ...]) -> Floats:
        """Image, maps and label (C + 1, z, y, x) of the voxels from `start` to before `stop`."""
        both = self._volume.box(start, stop)
        maps = self._given[(slice(None), *map(slice, start, stop))]
        return np.concatenate([both[:-1], maps.astype(np.float32), both[-1:]])


class Within(_View):
    """With labels in a region alone: of voxels outside, nothing is learned."""

    def box(self, start: tuple[int, ...], stop: tuple[int, ...]) -> Floats:
        """Image and label (C + 1, z, y, x) of the voxels from `start` to before `stop`."""
        both = self._volume.box(start, stop).copy()
        within = self._given[0][tuple(map(slice, start, stop))]
        both[-1][within == 0] = UNKNOWN
        return both

    def _whole(self, found: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.where(self._given[0] > 0, found, np.uint8(0))


class Cropped(_View):
    """The part of it that lies in a box; its coordinates begin there."""

    def __init__(self, volume: Volume, given: Given) -> None:
        super().__init__(volume, given)
        self.start, self._stop = bounds(given[0] > 0)

    @property
    def shape(self) -> Index:
        """Of the box, (Z, Y, X)."""
        z, y, x = (last - first for first, last in zip(self.start, self._stop, strict=True))
        return z, y, x

    def box(self, start: tuple[int, ...], stop: tuple[int, ...]) -> Floats:
        """Image and label (C + 1, z, y, x) of the box's voxels from `start` to before `stop`."""
        first, last = (
            tuple(place + own for place, own in zip(places, self.start, strict=True))
            for places in (start, stop)
        )
        return self._volume.box(first, last)

    def _whole(self, found: NDArray[np.uint8]) -> NDArray[np.uint8]:
        whole = np.zeros(self._volume.shape, np.uint8)
        whole[tuple(map(slice, self.start, self._stop))] = found
        return whole


VIEWS: dict[Gives, type[_View]] = {"maps": WithMaps, "region": Within, "box": Cropped}


def judged(volume: Volume, found: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The truth of a case and what was found of it: nothing where a network after another does not look.

    Args:
        volume: the case as the network sees it.
        found: classes of that, (Z, Y, X).

    Returns:
        Both of the whole case, (Z, Y, X).
    """
    return volume.judged(found) if isinstance(volume, _View) else (volume.label(), found)


def rows_within(rows: pd.DataFrame, handed: Mapping[str, Given], gives: Gives) -> pd.DataFrame:
    """The rows of the patch table that a network learns from which looks where another one told it to.

    Args:
        rows: with `case`, and kind, centre and size of the patch.
        handed: of each case, as `given_by` returned it.
        gives: what it is.

    Returns:
        The rows whose centre lies within, or whose patch reaches in, where it is one of a grid, which covers
        every voxel; in the coordinates of the view.

    Raises:
        DataError: there is none.
    """
    if gives == "maps":
        return rows
    kept = []
    for case, own in rows.groupby("case", sort=False):
        where = handed[str(case)][0] > 0
        chosen = own[[_lies_within(row, where) for row in own.to_dict("records")]]
        if gives == "box":
            moved = zip("zyx", bounds(where)[0], strict=True)
            chosen = chosen.assign(**{axis: chosen[axis] - start for axis, start in moved})
        kept.append(chosen)
    table: pd.DataFrame = pd.concat(kept).sort_index()
    if table.empty:
        raise DataError(
            f"none of {len(rows)} patches lies where the network before found anything, so none is left",
            "raise train.before.steps or train.before.grow_mm, or set train.before.gives to maps",
        )
    return table.reset_index(drop=True)


def _lies_within(row: Mapping[Hashable, Any], where: NDArray[np.bool_]) -> bool:
    """Whether a row of the patch table is learned from where a network looks."""
    centre = row["z"], row["y"], row["x"]
    if row["kind"] != "grid":
        return bool(where[centre])
    size = row["size_z"], row["size_y"], row["size_x"]
    z, y, x = where.shape
    start = patch_start(centre, size, (z, y, x))
    ends = zip(start, size, strict=True)
    return bool(where[tuple(slice(max(0, first), first + edge) for first, edge in ends)].any())
