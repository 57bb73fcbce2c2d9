"""Any network of MONAI that maps volumes to logits, as one of ours: `monai:SegResNet` or `monai:SwinUNETR`.

MONAI's own names are kept for its arguments. Those that say how many channels and classes there are, in how
many dimensions, and how large an image is, are filled in.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ParamsError
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
        known = [each for each in dir(nets) if inspect.isclass(getattr(nets, each))]
        raise ParamsError(f"MONAI has no network '{name}'. It has: {', '.join(known)}.")
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
        dims = int(arguments.get("spatial_dims", 3))
        filled: dict[str, Any] = {"spatial_dims": dims} if "spatial_dims" in takes else {}
        for names, value in ((INPUTS, in_channels), (CLASSES, classes)):
            filled |= {name: value for name in names if name in takes}
        if "img_size" in takes:
            filled["img_size"] = tuple(patch_size)[-dims:]
        self.network = self.monai(**filled | arguments)
        self._dims = dims
        step = self._multiple(in_channels)
        multiple: Index = (step, step, step) if dims == 3 else (1, step, step)
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

    @torch.no_grad()
    def _multiple(self, in_channels: int) -> int:
        """The smallest power of two whose multiples the network takes and gives back."""
        self.network.eval()
        step = 1
        while step <= LARGEST_STRIDE:
            # Odd multiples: even ones may be taken by chance. Two, as a single voxel has no variance.
            edges = [3 * step] * self._dims
            try:
                if self.network(torch.zeros(1, in_channels, *edges))[0].shape[-self._dims :] == tuple(edges):
                    break
            except (RuntimeError, ValueError, AssertionError):
                pass
            step *= 2
        self.network.train()
        return min(step, LARGEST_STRIDE)
