"""The folder of a model as a MONAI bundle: artefacts of every network, metadata, configuration, model card.

    configs/metadata.json, inference.json
    models/model.safetensors, model.pt2, model.onnx, agreement.json; before/0/... and folds/1/... the same of
        networks before it, and of those of other folds
    docs/README.md

See docs/models.md for what is in them.
"""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.atomic import new_folder, write_json, write_text
from pipeline.export.artefacts import SAFETENSORS, Agreement, network_of, write_artefacts
from pipeline.export.inference import differences, inference
from pipeline.export.metadata import metadata
from pipeline.inference.model import WEIGHTS, load_model, parts
from pipeline.registry.artifacts import content_of

AGREEMENT = "models/agreement.json"


def write_bundle(model: Path, target: Path, version: int, card: str | None) -> dict[str, Agreement]:
    """Write the model in the folder `model` as a bundle to `target`, whole or not at all.

    Args:
        model: the folder.
        target: must not be there, or be an empty folder.
        version: of the model in the registry.
        card: its model card, as Markdown.

    Returns:
        How far the artefacts of each network are from each other, by where the network lies.

    Raises:
        MissingError: there is no model.
        DataError: its files are damaged, there is something at `target`, or a network cannot be exported.
    """
    configs = dict(_networks(model))
    with new_folder(target) as folder:
        agreements = {}
        for place, config in configs.items():
            own = folder / "models" / place
            own.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model / place / WEIGHTS, own / SAFETENSORS)
            agreements[place or "."] = write_artefacts(config, own)
        networks = {
            place: (config, network_of(config, folder / "models" / place / SAFETENSORS))
            for place, config in configs.items()
        }
        config, network = networks[""]
        told = differences(config, network.form)
        write_json(
            folder / "configs" / "metadata.json",
            metadata(config, networks, version, content_of(model), told),
        )
        write_json(folder / "configs" / "inference.json", inference(config, network.form))
        write_json(folder / AGREEMENT, agreements)
        if card is not None:
            write_text(folder / "docs" / "README.md", card)
    return agreements


def _networks(model: Path, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and configuration of every network in the folder of a model, its own first, all verified."""
    config = load_model(model / place).config
    yield place, config
    for part in itertools.chain(*parts(config)):
        yield from _networks(model, f"{place}/{part}" if place else part)
