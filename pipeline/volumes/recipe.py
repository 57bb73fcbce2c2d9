"""What a volume depends on apart from the bytes of its case."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.volumes.annotation import FULL, Annotation
from pipeline.volumes.calibration import Offset
from pipeline.volumes.geometry import Triple

AS_STORED = Offset()


@dataclass(frozen=True)
class Recipe:
    """What a volume depends on apart from the bytes of its case."""

    modality: str
    labels: dict[str, int]
    """Names and values in the label maps."""
    spacing: Triple
    """Millimetres, (z, y, x)."""
    offset: Offset = AS_STORED
    """Of a CT."""
    mr_scale: Literal["zscore", "percentiles"] = "zscore"
    rois: dict[str, list[str]] = field(default_factory=dict)
    """By label, patterns of the names it has in masks that name what they hold."""
    channels: int = 1
    annotation: Annotation = FULL

    @property
    def classes(self) -> dict[str, int]:
        """Names and class indices 1…n, in the order of the values."""
        return class_indices(self.labels)

    @classmethod
    def of(cls, plan: Mapping[str, Any]) -> "Recipe":
        """The recipe as a plan or a model's configuration holds it."""
        recipe = plan["recipe"]
        z, y, x = recipe["spacing"]
        # Models of before have no annotation, which was full.
        told = recipe.get("annotation")
        annotation = Annotation(**told | {"size_mm": tuple(told["size_mm"])}) if told else FULL
        held = {"spacing": (z, y, x), "offset": Offset(**recipe["offset"]), "annotation": annotation}
        return cls(**recipe | held)


def class_indices(labels: Mapping[str, int]) -> dict[str, int]:
    """Label names with class indices 1…n instead of the values of the label maps."""
    return {name: index for index, name in enumerate(sorted(labels, key=lambda name: labels[name]), start=1)}
