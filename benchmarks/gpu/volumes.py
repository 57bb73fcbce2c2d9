"""Folders of Blosc2 volumes as one small archive, and back: nothing of a volume is lost.

    python -m benchmarks.gpu.volumes unpack ARCHIVE FOLDER

Volumes of scans hold few values many times. Each is packed as its values and, for each voxel, the number of
its value, which LZMA makes three times smaller than Blosc2 does the floating-point numbers.
"""

import io
import json
import sys
import tarfile
from pathlib import Path

import blosc2
import numpy as np

SUFFIX = ".b2nd"


def pack(folder: Path, archive: Path) -> None:
    """Write all files below `folder` to `archive`, volumes in the packed form."""
    with tarfile.open(archive, "w:xz") as tar:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = _packed(path) if path.suffix == SUFFIX else path.read_bytes()
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def unpack(archive: Path, folder: Path) -> None:
    """Write the files of `archive` below `folder`, volumes as Blosc2 arrays."""
    with tarfile.open(archive, "r:xz") as tar:
        for entry in tar:
            file = tar.extractfile(entry)
            assert file is not None
            path = folder / entry.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == SUFFIX:
                _unpacked(file.read(), path)
            else:
                path.write_bytes(file.read())


def _packed(path: Path) -> bytes:
    stored = blosc2.open(str(path), mode="r")
    array = stored[:]
    values, places = np.unique(array, return_inverse=True)
    notes = stored.schunk.vlmeta.getall() if len(stored.schunk.vlmeta) else {}
    about = {"chunks": list(stored.chunks), "blocks": list(stored.blocks), "notes": notes}
    buffer = io.BytesIO()
    np.savez(
        buffer,
        values=values,
        places=places.reshape(array.shape).astype(np.min_scalar_type(len(values))),
        about=np.frombuffer(json.dumps(about).encode(), np.uint8),
    )
    return buffer.getvalue()


def _unpacked(content: bytes, path: Path) -> None:
    with np.load(io.BytesIO(content)) as packed:
        about = json.loads(packed["about"].tobytes())
        array = packed["values"][packed["places"]]
    # Compressed as Hounsfield does it, which is what is quick to read.
    fast = {"codec": blosc2.Codec.LZ4, "clevel": 5, "nthreads": 1}
    stored = blosc2.asarray(
        array, urlpath=str(path), mode="w", chunks=about["chunks"], blocks=about["blocks"], cparams=fast
    )
    for name, note in about["notes"].items():
        stored.schunk.vlmeta[name] = note


if __name__ == "__main__":
    assert sys.argv[1] == "unpack", __doc__
    unpack(Path(sys.argv[2]), Path(sys.argv[3]))
