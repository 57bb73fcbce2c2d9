"""`configs/inference.json` of a MONAI bundle: our way from a scan to a label map, in MONAI's transforms.

It needs MONAI, nibabel and SciPy and none of our code: the network is read from `models/model.pt2`.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.inference.sliding_window import OVERLAP
from pipeline.networks.base import Form
from pipeline.volumes.calibration import AIR_HU, LOWEST_AIR

SIGMA = 0.125
"""Deviation of the Gaussian in which windows are blended, of their edge."""
SPLINE = 3
"""Of the order of the interpolation, as scipy counts."""
TOWARDS = "SAR"
"""Where the axes (z, y, x) lead."""


def inference(config: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """The configuration; without a way to run it where MONAI's sliding window cannot do what ours does.

    Args:
        config: of the model.
        form: of its network.
    """
    whole = {
        "imports": [
            "$import glob",
            "$import os",
            "$import torch",
            "$from torch.export.passes import move_to_device_pass",
        ],
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": "$torch.export.unflatten(move_to_device_pass("
        "torch.export.load(@bundle_root + '/models/model.pt2'), @device))",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(config)},
    }
    return whole | (_run(config, form) if runs(config, form) else {})


def runs(config: Mapping[str, Any], form: Form) -> bool:
    """Whether MONAI's sliding window can do what ours does for this network."""
    return "before" not in config and not any(form.margin)


def differences(config: Mapping[str, Any], form: Form) -> list[str]:
    """How a label map that MONAI makes by `inference` differs from one of this pipeline, as sentences."""
    found = [
        "An axis that is more than three times coarser than the others is interpolated linearly here, by a "
        "spline in MONAI.",
        "The resampled grid begins at the corner of the scan here, in MONAI it lies in its middle, up to "
        "half a voxel away.",
        "Windows lie evenly here; MONAI moves them by half of their edge and shifts the last.",
        "MONAI resamples probabilities by a spline on their way back, this pipeline linearly.",
        "MONAI labels values that cannot be of the modality; this pipeline refuses such a scan.",
    ]
    if config["modality"] == "CT":
        found.append("A padding value that only a DICOM header names becomes air here, not in MONAI.")
    if config.get("mirror_axes"):
        found.append("Here the mean of mirrored looks is taken, in MONAI a single look.")
    if config.get("rule_out"):
        found.append("Here voxels that cannot be of any label by their value are background at once.")
    if config.get("folds", 1) > 1:
        found.append(
            f"Here the mean of {config['folds']} networks is taken; inference.json is of the first alone."
        )
    if config.get("clean"):
        found.append(f"Here label maps are tidied up afterwards: {', '.join(sorted(config['clean']))}.")
    if not runs(config, form):
        why = "is given what other networks found" if "before" in config else "labels less than it is given"
        found.append(
            f"MONAI's sliding window has no way for a network that {why}: inference.json ends there."
        )
    return found


def _preprocessing(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32", "device": "@device"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": TOWARDS, "labels": None},
        *_calibration(config["modality"], config["recipe"]),
        {
            "_target_": "Spacingd",
            "keys": "image",
            "pixdim": list(config["spacing"]),
            "mode": SPLINE,
            "padding_mode": "nearest",
            # Corners of the two grids coincide, not the centres of their first voxels.
            "scale_extent": True,
        },
        {"_target_": "Lambdad", "keys": "image", "func": f"${_normalised(config['normalisation'])}"},
    ]


def _calibration(modality: str, recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """HU or z-scores, as `pipeline.volumes.calibration` makes them."""
    channelwise = {"keys": "image", "channel_wise": True}
    if modality == "MR":
        ends = {"lower": 0.5, "upper": 99.5}
        if recipe.get("mr_scale", "zscore") == "percentiles":
            scale = {"b_min": -1.0, "b_max": 1.0, "clip": True}
            return [{"_target_": "ScaleIntensityRangePercentilesd"} | channelwise | ends | scale]
        return [
            {"_target_": "ClipIntensityPercentilesd"} | channelwise | ends,
            {"_target_": "NormalizeIntensityd"} | channelwise,
        ]
    steps = []
    offset = recipe["offset"]
    if offset["hu"]:
        added = f"image + {offset['hu']}"
        unsigned = offset["where"] == "unsigned"
        steps.append(f"{added} if image.min() >= 0 else image" if unsigned else added)
    steps.append(f"torch.where(image < {LOWEST_AIR}, {AIR_HU}, image)")
    return [{"_target_": "Lambdad", "keys": "image", "func": f"$lambda image: {step}"} for step in steps]


def _normalised(channels: list[dict[str, Any]]) -> str:
    """`pipeline.training.normalisation.normalise` as a function that keeps what MONAI knows of the image."""

    def each(values: list[float]) -> str:
        return f"torch.tensor({values})[:, None, None, None].to(image.device)"

    low, high = (each([float(one["clip"][end]) for one in channels]) for end in (0, 1))
    mean, deviation = (each([float(one[key]) for one in channels]) for key in ("mean", "std"))
    seen = f"image[{[one['image'] for one in channels]}]"
    return f"lambda image: (torch.minimum(torch.maximum({seen}, {low}), {high}) - {mean}) / {deviation}"


def _run(config: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """From the files of `dataset_dir` to label maps in `output_dir`."""
    several = config["recipe"].get("channels", 1) > 1
    # Of several channels a case is a file that holds them, or a folder of files in the order of their names.
    cases = "sorted(glob.glob(os.path.join(@dataset_dir, '*')))"
    folder = "sorted(glob.glob(os.path.join(case, '*.nii*')))"
    listed = f"[case if os.path.isfile(case) else {folder} for case in {cases}]" if several else cases
    return {
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/label_maps'",
        "datalist": f"${listed}",
        # Probabilities are blended, not logits.
        "network": "$torch.nn.Sequential(@network_def, torch.nn.Softmax(dim=1)).to(@device).eval()",
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(form.fit(config["patch_size"])),
            "sw_batch_size": 4,
            "overlap": OVERLAP,
            "mode": "gaussian",
            "sigma_scale": SIGMA,
            "padding_mode": "replicate",
        },
        "labelling": {
            "_target_": "Compose",
            "transforms": _labelling([0, *sorted(config["labels"].values())]),
        },
        "run": [
            "$torch.set_grad_enabled(False)",
            "$[@labelling({'image': image}) and None for image in @datalist]",
        ],
    }


def _labelling(values: list[int]) -> list[str | dict[str, Any]]:
    """From an image to the label map that is saved; `values` are those of the classes in their order."""
    return [
        "@preprocessing",
        {"_target_": "CopyItemsd", "keys": "image", "names": "pred"},
        {
            "_target_": "Lambdad",
            "keys": "pred",
            "func": "$lambda image: @inferer(image[None], @network)[0]",
        },
        {
            "_target_": "Invertd",
            "keys": "pred",
            "orig_keys": "image",
            "transform": "@preprocessing",
            "nearest_interp": False,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        {
            "_target_": "MapLabelValued",
            "keys": "pred",
            "orig_labels": list(range(len(values))),
            "target_labels": values,
        },
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "",
            "output_dtype": "$torch.uint8",
            "separate_folder": False,
            "print_log": False,
        },
    ]
