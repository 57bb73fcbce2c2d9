"""Compositions by name: one network of the catalogue after another, as `train.before` says it in full.

`hierarchical`: Roth, Oda, Zhou, Shimizu, Yang, Hayashi, Oda, Fujiwara, Misawa and Mori, "An application of
cascaded 3D fully convolutional networks for medical image segmentation", Computerized Medical Imaging and
Graphics 66, 2018: two 3D U-Nets; the second looks at the dilated region that the first found.
`cascade`: Christ et al., "Automatic Liver and Lesion Segmentation in CT Using Cascaded Fully Convolutional
Neural Networks and 3D Conditional Random Fields", MICCAI 2016: two 2D U-Nets; the second sees the box around
what the first found.
`focal_fcn`: Zhou et al., "Focal FCN: Towards Small Object Segmentation with Limited Training Data", 2017: an
FCN, then one that sees its maps beside the image and is trained by the focal loss.
`auto_context`: Chen, Dou, Yu, Qin and Heng, "VoxResNet: Deep voxelwise residual networks for brain
segmentation from 3D MR images", NeuroImage 170, 2018: a second VoxResNet sees the maps of the first beside
the image.

In all of them the second network learns from predictions of cases that the first one has not seen.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Composition:
    """Two networks, and what the second is given of the first."""

    first: Mapping[str, Any]
    second: Mapping[str, Any]
    gives: str
    loss: Mapping[str, Any] = field(default_factory=dict)
    """Of the second network, where `train.loss` says nothing else."""


NAMED = {
    "hierarchical": Composition({"name": "unet"}, {"name": "unet"}, "region"),
    "cascade": Composition({"name": "unet", "dims": 2}, {"name": "unet", "dims": 2}, "box"),
    "focal_fcn": Composition({"name": "fcn"}, {"name": "fcn"}, "maps", {"focal_gamma": 2.0}),
    "auto_context": Composition({"name": "voxresnet"}, {"name": "voxresnet"}, "maps"),
}
OPTIONS = ("first", "second", "grow_mm", "folds", "steps")
"""`first` and `second` replace a network; the others are those of `train.before`."""


def written_out(train: Mapping[str, Any]) -> dict[str, Any]:
    """The section `train` with a composition that `network` names written out as `network` and `before`.

    Args:
        train: the section as it stands in `params.yaml`.

    Raises:
        ValueError: an option is none of a composition's, or `before` is there as well.
    """
    network = train.get("network")
    name = network.get("name") if isinstance(network, Mapping) else None
    if not isinstance(network, Mapping) or not isinstance(name, str) or name not in NAMED:
        return dict(train)
    stray = [option for option in network if option not in ("name", *OPTIONS)]
    if stray:
        meant = nearest(stray[0], OPTIONS)
        raise ValueError(f"the composition '{name}' has no '{stray[0]}'{meant}. It has: {', '.join(OPTIONS)}")
    if train.get("before") is not None:
        raise ValueError(f"the composition '{name}' says itself what comes before it: leave out 'before'")
    chosen = NAMED[name]
    own = {key: network[key] for key in ("grow_mm", "folds", "steps") if key in network}
    loss = train.get("loss") or {}
    return dict(train) | {
        "network": network.get("second", chosen.second),
        "before": {"network": network.get("first", chosen.first), "gives": chosen.gives, "loss": loss} | own,
        "loss": {**chosen.loss, **loss} if isinstance(loss, Mapping) else loss,
    }


def nearest(word: str, known: Sequence[str]) -> str:
    """For an error about `word`: the one of `known` that was probably meant; '' if none is near."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean '{found[0]}'?)" if found else ""
