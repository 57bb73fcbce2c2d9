"""Windows of one value are looked at once.

Around a patient there is air, and what is cut off below before a network sees it leaves air of one value:
three in ten windows over a head and neck CT. A network says the same of each of them.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class OnceIfConstant:
    """A function of windows that computes those of one value once, as long as it stays that value.

    Args:
        look: maps windows (B, C, z, y, x), normalised, to class probabilities (B, classes, z, y, x); each
            window for itself.
    """

    def __init__(self, look: Callable[[Tensor], Tensor]) -> None:
        self._look = look
        self._values: Tensor | None = None
        self._share = torch.empty(0)

    def __call__(self, windows: Tensor) -> Tensor:
        """What `look` gives of the windows."""
        voxels = windows.flatten(2)
        # NaN equals nothing, not even itself: such a window is computed.
        constant = (voxels == voxels[..., :1]).flatten(1).all(dim=1)
        if not constant.any():
            return self._look(windows)
        values = voxels[..., 0]
        first = int(constant.nonzero()[0])
        alike = constant & (values == values[first]).all(dim=1)
        known = self._values is not None and torch.equal(self._values, values[first])
        wanted = ~alike
        wanted[first] |= not known
        if not wanted.any():
            return self._share.expand(len(windows), *self._share.shape)
        found = self._look(windows[wanted])
        shares = found.new_empty((len(windows), *found.shape[1:]))
        shares[wanted] = found
        if not known:
            # A copy: the batch it is part of is not kept.
            self._values, self._share = values[first].clone(), shares[first].clone()
        shares[alike] = self._share
        return shares
