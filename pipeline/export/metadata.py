"""`configs/metadata.json` of a MONAI bundle: what the model is, and what its networks take and give.

The keys and their types are those of MONAI's bundle specification and of the schema that it names.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.export.artefacts import input_shape
from pipeline.networks.base import Network

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
MONAI = "1.6.1"
"""The MONAI that bundles are tested with; exporting takes none."""
INTENDED = "Research, and drafts that a person who knows the anatomy looks over. It is not a medical device."
NETWORK = "network"
"""What the network of the bundle is called; one in `models/before/0` is called `before_0`."""


def metadata(
    config: Mapping[str, Any],
    networks: Mapping[str, tuple[dict[str, Any], Network]],
    version: int,
    content: str,
    differences: list[str],
) -> dict[str, Any]:
    """The metadata of a bundle.

    Args:
        config: of the model.
        networks: configuration and network by where it lies in the folder of the model; "": the model's own.
        version: in the registry.
        content: SHA-256 over the files of the model.
        differences: of MONAI's way with a scan to ours, as sentences.
    """
    import numpy as np
    import torch

    labels = sorted(config["labels"], key=config["labels"].__getitem__)
    formats = {
        f"{place.replace('/', '_') or NETWORK}_data_format": _data_format(part, network)
        for place, (part, network) in networks.items()
    }
    spacing = " x ".join(f"{step:g}" for step in config["spacing"])
    return {
        "schema": SCHEMA,
        "version": f"{version}.0.0",
        "changelog": {f"{version}.0.0": f"version {version} in the registry, files of SHA-256 {content}"},
        "monai_version": MONAI,
        # Without the build's name, which is no version of a package that can be asked for.
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": required_packages(),
        "name": f"{config['organ']} segmentation",
        "task": f"Segmentation of {', '.join(labels)} in {config['modality']}",
        "description": f"The network {config['network']['name']} labels {', '.join(labels)} in volumes "
        f"({config['modality']}) of {spacing} mm; the axes z, y, x lead to the head, the front, the right.",
        "authors": "Trained by the pipeline Hounsfield; who ran it says who the authors are.",
        "copyright": "Not stated here: of who trained the model, and of who gave the data.",
        "data_type": "nibabel",
        "image_classes": f"{config['modality']}, normalised as inference.json says",
        "label_classes": _classes(config["labels"]),
        "pred_classes": f"{len(labels) + 1} channels of logits: background, {', '.join(labels)}",
        "intended_use": INTENDED,
        "hounsfield": {
            "content": content,
            "network": config["network"],
            "spacing": config["spacing"],
            "differences": differences,
        },
    } | formats


def required_packages() -> dict[str, str]:
    """What inference.json needs beside MONAI, PyTorch and NumPy, in the versions of here."""
    from importlib.metadata import version

    return {name: version(name) for name in ("nibabel", "scipy")}


def _classes(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{value} is {name}" for name, value in sorted(labels.items(), key=lambda one: one[1]))


def _data_format(config: dict[str, Any], network: Network) -> dict[str, Any]:
    """What a network takes and gives; both are patches of a volume."""
    channels, *given = input_shape(config, network)
    normalised = config["normalisation"]
    ends = [(end - one["mean"]) / one["std"] for one in normalised for end in one["clip"]]
    names = ["background", *sorted(config["labels"], key=config["labels"].__getitem__)]
    image = {
        "type": "image",
        "format": "hounsfield" if config["modality"] == "CT" else "magnitude",
        "modality": config["modality"],
        "num_channels": channels,
        "spatial_shape": given,
        "dtype": "float32",
        "value_range": [min(ends), max(ends)],
        "is_patch_data": True,
        "channel_def": {str(number): _channel(config, one) for number, one in enumerate(normalised)},
    }
    pred = {
        "type": "image",
        "format": "labels",
        "num_channels": len(names),
        "spatial_shape": list(network.form.fit(config["patch_size"])),
        "dtype": "float32",
        # Logits have no bounds.
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(number): name for number, name in enumerate(names)},
    }
    return {"inputs": {"image": image}, "outputs": {"pred": pred}}


def _channel(config: dict[str, Any], one: Mapping[str, Any]) -> str:
    images = config["recipe"].get("channels", 1)
    low, high = one["clip"]
    what = (
        f"image {one['image']}" if one["image"] < images else f"map {one['image'] - images} of the one before"
    )
    return f"{what}, clipped to {low:g} to {high:g}, less {one['mean']:g}, by {one['std']:g}"
