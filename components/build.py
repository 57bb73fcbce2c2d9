"""Build the image of every stage and say how large each is.

    python -m components.build [STAGE...] [--base IMAGE] [--prefix hounsfield/] [--tag latest]

pip in a build goes by this machine's settings (index, certificates, constraints, folders of wheels), as `pip
config list` tells them. They are handed in for the build alone: no layer and no image keeps them.
"""

import argparse
import ast
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from components import render
from components.engine import Engine, find_engine
from pipeline.errors import HounsfieldError, ParamsError
from pipeline.graph import load_stages

ROOT = Path(__file__).parents[1]
INDEXES = ("index-url", "extra-index-url")
LOCAL = ("/", "file:///")
UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
}
"""pip's settings, and the variables by which uv is told the same."""
INSIDE = "/media"
"""Where a build sees what pip's settings name of this machine."""


def main() -> None:
    """Build what was asked for, all stages if nothing was."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage", nargs="*", help="stages of dvc.yaml; all of them if none is named")
    parser.add_argument("--base", default="", help="instead of python:3.11-slim-bookworm")
    parser.add_argument("--prefix", default="hounsfield/", help="what image names begin with")
    parser.add_argument("--tag", default="latest")
    asked = parser.parse_args()
    try:
        build_all(asked.stage, asked.base, asked.prefix, asked.tag)
    except HounsfieldError as error:
        sys.exit(f"error {error}")


def build_all(names: list[str], base: str, prefix: str, tag: str) -> None:
    """Build the named stages' images, one after the other: they share their first layers.

    Raises:
        ParamsError: dvc.yaml has no such stage.
        MissingError: no engine answers, or a build failed.
    """
    stages = load_stages(ROOT)
    unknown = set(names) - set(stages)
    if unknown:
        raise ParamsError(f"dvc.yaml has no stage '{unknown.pop()}'; it has {', '.join(stages)}.")
    engine = find_engine()
    with tempfile.TemporaryDirectory() as folder:
        settings = pip_settings(engine, Path(folder))
        for name in names or list(stages):
            for path in render.write(ROOT, stages[name]):
                print(f"written: {path.relative_to(ROOT)}")
            image = f"{prefix}{name}:{tag}"
            started = time.perf_counter()
            build(engine, name, image, base, settings)
            seconds = time.perf_counter() - started
            print(f"{image:32} {engine.size(image) / 1e6:6.0f} MB  {seconds:4.0f} s", flush=True)


def build(engine: Engine, stage: str, image: str, base: str, settings: list[str]) -> None:
    """Build the image of one stage."""
    engine.run(
        "build",
        *("--file", f"components/{stage}/Dockerfile", "--tag", image, "--quiet"),
        # Some machines' containers have no network of their own; a build trusts what it fetches by hash.
        *("--network", "host"),
        *(["--build-arg", f"BASE={base}"] if base else []),
        *(["--layers"] if engine.is_podman else []),
        *settings,
        str(ROOT),
        capture=True,
    )


def pip_settings(engine: Engine, folder: Path) -> list[str]:
    """Options that give pip in a build the settings it has outside, in a file written to `folder`."""
    sections: dict[str, dict[str, str]] = {}
    for name, value in _pip_config():
        section, _, key = name.rpartition(".")
        sections.setdefault("global" if section == ":env:" else section, {})[key] = value
    places = {place for section in sections.values() for item in section.items() for place in _places(*item)}
    if places and not engine.is_podman:
        print("note: docker builds without this machine's local pip settings: only podman mounts folders")
        sections, places = {}, set()
    for path in (folder / "pip", folder / "uv"):
        # An index may be given with a password.
        path.touch(mode=0o600)
    (folder / "pip").write_text("".join(_as_text(name, section) for name, section in sections.items()))
    (folder / "uv").write_text(_for_uv(sections.get("global", {})))
    secrets = [f"--secret=id={name},src={folder / name}" for name in ("pip", "uv")]
    return [*secrets, *_mounts(sorted(places), folder / "host")]


def _mounts(places: list[Path], shape: Path) -> list[str]:
    """Options that mount these files and folders below `INSIDE`, which every base image has.

    A mount leaves its empty folder in the layer, unless that lies in another mount: `shape` is it.
    """
    if not places:
        return []
    for place in places:
        target = shape / place.relative_to("/")
        (target if place.is_dir() else target.parent).mkdir(parents=True, exist_ok=True)
        if place.is_file():
            target.touch()
    return [
        f"--volume={shape}:{INSIDE}:ro",
        *(f"--volume={place}:{INSIDE}{place}:ro" for place in places),
    ]


def _pip_config() -> list[tuple[str, str]]:
    """Settings of this interpreter's pip; the environment's stand last, so that they win.

    Raises:
        ParamsError: pip cannot read them itself.
    """
    command = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"it ended with {done.returncode}"
        raise ParamsError(f"pip cannot read its settings ({reason}); mend them: pip config debug says where.")
    lines = (line.partition("=") for line in done.stdout.splitlines())
    pairs = [(name, str(ast.literal_eval(value))) for name, _, value in lines]
    # Which file they are from means nothing in a build.
    pairs = [(name, value) for name, value in pairs if not name.endswith(".config-file")]
    return sorted(pairs, key=lambda pair: pair[0].startswith(":env:"))


def _places(key: str, value: str) -> list[Path]:
    """Files and folders of this machine that a setting names."""
    paths = [Path(word.removeprefix("file://")) for word in value.split() if word.startswith(LOCAL)]
    # The pages of an index lie in one folder, the files they lead to in one beside it.
    return [path.parent if key in INDEXES else path for path in paths if path.exists()]


def _as_text(name: str, section: dict[str, str]) -> str:
    """A section as pip's configuration file has it, for a build; values of several lines are indented."""
    lines = [f"{key} = " + "\n    ".join(map(_inside, value.split())) for key, value in section.items()]
    return "\n".join([f"[{name}]", *lines, ""])


def _for_uv(section: dict[str, str]) -> str:
    """The same for uv, as lines that a shell reads."""
    values = {UV[key]: " ".join(map(_inside, value.split())) for key, value in section.items() if key in UV}
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


def _inside(word: str) -> str:
    """A word of a setting; a path of this machine is one of the build."""
    if not word.startswith(LOCAL):
        return word
    scheme = "file://" if word.startswith("file://") else ""
    return f"{scheme}{INSIDE}{word.removeprefix('file://')}"


if __name__ == "__main__":
    main()
