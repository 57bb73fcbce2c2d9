"""nnU-Net's own trainer and predictor on the prepared hippocampus cases, as objects to be timed.

Its plan for the cases that both were given is taken as it is; another batch can be set. Deep supervision is
off, so that its network computes in its trainer what it does in our loop, and no more.
"""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

DATASET = "Dataset004_Hippocampus"


def load(folder: Path, batch: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its plans and its dataset.json; sets the variables that nnU-Net finds its folders by."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(folder if name == "preprocessed" else folder / name)
    plans = json.loads((folder / DATASET / "nnUNetPlans.json").read_text())
    if batch is not None:
        plans["configurations"]["3d_fullres"]["batch_size"] = batch
    plans["continue_training"] = False
    return plans, json.loads((folder / DATASET / "dataset.json").read_text())


def trainer(folder: Path, device: Any, batch: int | None = None) -> Any:
    """Its trainer on a device of PyTorch, ready for `train_step`."""
    import torch

    plans, dataset = load(folder, batch)
    # The module and its class have one name.
    name = "nnUNetTrainerNoDeepSupervision"
    module = import_module(f"nnunetv2.training.nnUNetTrainer.variants.network_architecture.{name}")
    found = getattr(module, name)(plans, "3d_fullres", 0, dataset, device)
    found.initialize()
    torch.backends.cudnn.benchmark = True
    return found


def network(folder: Path) -> Any:
    """Its network with fresh weights, on the CPU, the size of its patches, and patches a batch."""
    plans, _ = load(folder)
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    plan = plans["configurations"]["3d_fullres"]
    architecture = plan["architecture"]
    built = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        3,
        allow_init=True,
        deep_supervision=False,
    )
    return built, tuple(plan["patch_size"]), plan["batch_size"]


def predictor(folder: Path, weights: Any, device: Any) -> Any:
    """Its predictor over `weights`, a network, on a device of PyTorch, without mirroring."""
    plans, dataset = load(folder)
    plans.pop("continue_training")
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    found = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    found.manual_initialization(weights, manager, configuration, None, dataset, "nnUNetTrainer", None)
    return found


if __name__ == "__main__":
    built, size, batch_size = network(Path(sys.argv[1]))
    print(type(built).__name__, size, batch_size, sum(weight.numel() for weight in built.parameters()))
