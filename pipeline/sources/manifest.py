"""What was fetched from where: a file to read and to commit. No credentials, no times, no paths of a machine.

An entry has the ETag of its object only while the file is whole. It loses the ETag before the file
changes and has it again after, so that whenever a process is killed, what is written here holds.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.atomic import write_json
from pipeline.errors import DataError
from pipeline.sources.keys import S3Object, parse_url, why_no_file


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    etag: str
    size: int = Field(ge=0)
    version_id: str | None


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    url: str
    objects: dict[str, _Entry]

    @field_validator("objects")
    @classmethod
    def _names_stay_inside(cls, objects: dict[str, _Entry]) -> dict[str, _Entry]:
        # Files that are named here are removed when their object is gone.
        for name in objects:
            if fault := why_no_file(name):
                raise ValueError(f"{name!a} {fault}")
        return objects


@dataclass
class Manifest:
    """The objects whose files are in place or on their way, and the prefix they are from ('': none yet)."""

    path: Path
    url: str = ""
    objects: dict[str, S3Object] = field(default_factory=dict)

    def write(self) -> None:
        """Write it sorted, whole or not at all."""
        entries = {
            entry.name: {"etag": entry.etag, "size": entry.size, "version_id": entry.version_id}
            for entry in self.objects.values()
        }
        write_json(self.path, {"url": self.url, "objects": entries})


def awaited(entry: S3Object) -> S3Object:
    """An object as it is noted while its file may be the one before, the new one, or none."""
    return replace(entry, etag="", version_id=None)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; where there is no file, nothing was fetched.

    Raises:
        DataError: it is not as it was written.
    """
    if not path.is_file():
        return Manifest(path)
    try:
        content = _Content.model_validate_json(path.read_bytes())
        url = parse_url(content.url).url
    except (ValidationError, DataError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.reason
        raise DataError(
            f"{path} does not say what was fetched ({reason})",
            f"get it back with git checkout {path.name}, or remove it to have every file checked again",
        ) from None
    objects = {name: S3Object(name=name, **entry.model_dump()) for name, entry in content.objects.items()}
    return Manifest(path, url, objects)
