"""Versions of the registry as bundles: into a folder, and kept with the version that won."""

import tempfile
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from pipeline.atomic import sha256_code
from pipeline.errors import DataError, MissingError
from pipeline.progress import console
from pipeline.registry.asked import asked_version
from pipeline.registry.models import ModelRegistry
from pipeline.registry.version import EXPORT, Version

CODE = ("export", "networks")
"""What an export depends on, apart from its model."""


@dataclass(frozen=True)
class Exported:
    """A bundle that was written."""

    organ: str
    version: int
    folder: str
    agreement: dict[str, dict[str, dict[str, float | int]]]
    """By network and artefact; see `pipeline.export.artefacts.Agreement`."""

    def lines(self) -> list[str]:
        """For people."""
        apart = max(one["largest_difference"] for net in self.agreement.values() for one in net.values())
        return [
            f"{self.organ}: version {self.version} is in {self.folder}",
            f"safetensors, torch.export and ONNX agree: class probabilities are {apart:.1g} apart at most",
        ]


def export_version(root: Path, organ: str, target: Path, number: int | None = None) -> Exported:
    """Write a version of the project at `root` to the folder `target`; None: the champion.

    Raises:
        MissingError: there is no such version, or no champion, or its files are gone.
        DataError: its files are damaged, something is at `target`, or a network cannot be exported.
    """
    registry = ModelRegistry(root)
    version = asked_version(registry, root, organ, number)
    agreement = _write(registry, version, registry.verify(version), target)
    return Exported(organ, version.number, str(target), agreement)


def keep_export(registry: ModelRegistry, organ: str, number: int) -> None:
    """Make the export of a version once and keep it with the version; say why where it cannot be.

    A model that cannot be exported is as good a champion as before: this is no failure. It is tried again by
    other code or another torch, and where it was the machine that lacked something.

    Raises:
        MissingError: the registry cannot be used, or the version's files are gone.
        DataError: its files are not those that were registered.
    """
    version = registry.version(organ, number)
    known, made_by = version.export or {}, f"{sha256_code(*CODE)[:16]} {package_version('torch')}"
    if "content" in known or known.get("made_by") == made_by:
        return
    model = registry.verify(version)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / organ
        try:
            _write(registry, version, model, folder)
        except (DataError, MissingError) as error:
            refused = {"reason": error.reason} | ({} if _of_machine(error) else {"made_by": made_by})
            registry.note(version, EXPORT, refused)
            console.print(f"{organ}: version {number} is not exported: {error.reason}", markup=False)
            return
        registry.store_export(version, folder)


def _of_machine(error: BaseException | None) -> bool:
    """Whether an error came of what the machine had not: room, memory, a library."""
    from pipeline.training.micro_batches import is_out_of_memory

    if is_out_of_memory(error):
        return True
    while error is not None and not isinstance(error, OSError | ImportError):
        error = error.__cause__
    return error is not None


def _write(registry: ModelRegistry, version: Version, model: Path, target: Path) -> dict[str, Any]:
    # torch is loaded where there is something to export.
    from pipeline.export.bundle import write_bundle

    return write_bundle(model, target, version.number, _card(registry, version))


def _card(registry: ModelRegistry, version: Version) -> str | None:
    """The model card; old versions have none."""
    from pipeline.registry.card import NAME

    try:
        return registry.evidence(version, NAME)
    except MissingError:
        return None
