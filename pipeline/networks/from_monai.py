"""Any network of MONAI that maps volumes to logits, as one of ours: `monai:SegResNet` or `monai:VNet`.

MONAI's own names are kept for its arguments. Those that say how many channels and classes there are, in how
many dimensions, and how large an image is, are filled in.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ParamsError
from pipeline.networks import no_network_of_monai
from pipeline.networks.base import Form, Index, Network, as_slices, as_volume

CLASSES = ("out_channels", "out_chns", "num_classes", "classes")
INPUTS = ("in_channels", "in_chns", "input_channels")
LARGEST_STRIDE = 64
"""What edges are multiples of at most."""


def wrapped(name: str) -> type[Network]:
    """A network of the catalogue that is MONAI's class `name`.

    Raises:
        ParamsError: MONAI is not installed, has no such network, or it is none for segmentation.
    """
    try:
        from monai.networks import nets
    except ImportError:
        raise ParamsError(f"train.network.name is 'monai:{name}', and MONAI is not installed") from None
    found = getattr(nets, name, None)
    if not (inspect.isclass(found) and issubclass(found, torch.nn.Module)):
        raise ParamsError(no_network_of_monai(name))
    return type(name, (FromMonai,), {"monai": found, "__doc__": found.__doc__})


class FromMonai(Network):
    """A network of MONAI.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        patch_size: (z, y, x) voxels; for networks that are built for a size.
        arguments: of MONAI's class, by its own names; `spatial_dims` 3 is the default.
    """

    monai: type[torch.nn.Module]

    def __init__(
        self, in_channels: int, classes: int, *, patch_size: Sequence[int] = (32, 32, 32), **arguments: Any
    ) -> None:
        super().__init__()
        takes = inspect.signature(self.monai.__init__).parameters
        dims = arguments.get("spatial_dims", 3)
        _check(dims, arguments, in_channels, classes)
        filled: dict[str, Any] = {"spatial_dims": dims} if "spatial_dims" in takes else {}
        for names, value in ((INPUTS, in_channels), (CLASSES, classes)):
            filled |= {name: value for name in names if name in takes}
        if "img_size" in takes:
            filled["img_size"] = tuple(patch_size)[-dims:]
        self.network = self.monai(**filled | arguments)
        self._dims = dims
        multiple = self._multiple(in_channels, classes, patch_size if "img_size" in takes else None)
        # Not known in general: as far as the patch goes.
        self.form = Form(3 if dims == 3 else 2, (0, 0, 0) if dims == 3 else (1, 0, 0), multiple=multiple)

    @classmethod
    def plan(
        cls, options: Mapping[str, Any], patch_size: Index, spacing: Sequence[float], small: bool
    ) -> dict[str, Any]:
        """The options as they are; a network that is built for a size gets that of the patch."""
        sized = "img_size" in inspect.signature(cls.monai.__init__).parameters
        return ({"patch_size": list(patch_size)} if sized else {}) | dict(options)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X)."""
        result = self.network(image if self._dims == 3 else as_slices(image))
        # Some return their deep supervision, the finest first, or something beside the logits.
        while isinstance(result, (tuple, list)):
            result = result[0]
        logits: Tensor = result if self._dims == 3 else as_volume(result, image.shape[0])
        return logits[:, :, 0] if logits.ndim == image.ndim + 1 else logits

    def _multiple(self, in_channels: int, classes: int, built_for: Sequence[int] | None) -> Index:
        """The smallest power of two whose multiples the network takes and gives back, or the size of its own.

        Raises:
            ValueError: there is none.
        """
        if built_for is not None:
            tried = {_edges(built_for, self._dims): _edges(built_for, self._dims)}
        else:
            # Odd multiples: even ones may be taken by chance. Three, as a single voxel has no variance.
            steps = [2**power for power in range(LARGEST_STRIDE.bit_length())]
            tried = {_edges([step] * 3, self._dims): _edges([3 * step] * 3, self._dims) for step in steps}
        for multiple, size in tried.items():
            if self._gives_back(in_channels, classes, size):
                return multiple
        sizes = ", ".join(" x ".join(map(str, size)) for size in tried.values())
        raise ValueError(f"it does not give {classes} logits a voxel back of volumes of {sizes}")

    @torch.no_grad()
    def _gives_back(self, in_channels: int, classes: int, size: Index) -> bool:
        self.eval()
        try:
            given = self(torch.zeros(1, in_channels, *size)).shape == (1, classes, *size)
        except (RuntimeError, ValueError, AssertionError, AttributeError):
            given = False
        self.train()
        return bool(given)


def _check(dims: Any, arguments: Mapping[str, Any], in_channels: int, classes: int) -> None:
    right = dict.fromkeys(INPUTS, in_channels) | dict.fromkeys(CLASSES, classes)
    # Models were trained with what is right written out.
    stray = [name for name, value in arguments.items() if name in right and value != right[name]]
    if stray:
        raise ValueError(f"{stray[0]} is as the data are: leave it out")
    if dims not in (2, 3):
        raise ValueError(f"spatial_dims is {dims!r}, not 2 or 3")


def _edges(size: Sequence[int], dims: int) -> Index:
    z, y, x = size
    return (z if dims == 3 else 1, y, x)
