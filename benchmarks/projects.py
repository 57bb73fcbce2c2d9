"""What benchmarks on real cases do alike: keep cases back by a hash, and set parameters of an organ."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path


def kept_back(names: Iterable[str], count: int) -> set[str]:
    """The names with the lowest SHA-256: the same on every machine, and without regard to what they hold."""
    return set(sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:count])


def configure(path: Path, organ: str, settings: Sequence[str], afresh: Iterable[str] = ()) -> None:
    """Write into `params.yaml` what is set of an organ.

    Args:
        path: of `params.yaml`.
        organ: one of it.
        settings: SECTION.KEY=VALUE, where a key may lead on: SECTION.KEY.KEY=VALUE.
        afresh: sections that lose what they hold before.
    """
    # Here, as a peer's interpreter, which imports this module too, may lack it.
    import yaml

    params = yaml.safe_load(path.read_text())
    entry = params["organs"][organ]
    entry |= {section: {} for section in afresh}
    for setting in settings:
        key, value = setting.split("=", 1)
        section, *names, last = key.split(".")
        place = entry.setdefault(section, {})
        for name in names:
            place = place.setdefault(name, {})
        place[last] = yaml.safe_load(value)
    path.write_text(yaml.safe_dump(params, sort_keys=False))
