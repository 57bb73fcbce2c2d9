"""Names for patients that say nothing to whoever has no secret: a keyed hash of their identifiers.

The secret, the *salt*, stays outside the repository. Who works on the same data on another machine
needs the same salt: patients are put on a side of a split by their name.
"""

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from pipeline.errors import MissingError, ParamsError

VALUE, FILE = "HOUNSFIELD_SALT", "HOUNSFIELD_SALT_FILE"
BYTES = 32


def salt() -> str:
    """The secret: of the environment, else of the named file, else of this user, made if need be.

    Raises:
        MissingError: the file cannot be read, is empty, or cannot be made.
    """
    given = os.environ.get(VALUE, "").strip()
    if given:
        return given
    named = os.environ.get(FILE, "").strip()
    # A file that somebody named is one they mean to have: a new secret would only look like it.
    return _read(Path(named)) if named else _own(_home() / ".config" / "hounsfield" / "salt")


def pseudonym(identifier: str, kind: str = "patient") -> str:
    """What an identifier is called everywhere else: `kind`, and 12 hex digits of HMAC-SHA256.

    Raises:
        MissingError: as `salt`.
    """
    return f"{kind}_{keyed_hash(identifier)[:12]}"


def is_pseudonym(name: str) -> bool:
    """Whether a patient, or a case, is called by a keyed hash, not by what a source calls them."""
    return re.fullmatch(r"(patient|case)_[0-9a-f]{12}", name) is not None


def keyed_hash(text: str) -> str:
    """HMAC-SHA256 of a text under the salt, as hex.

    Raises:
        MissingError: as `salt`.
    """
    return hmac.new(salt().encode(), text.encode(), hashlib.sha256).hexdigest()


def fingerprint() -> str:
    """8 hex digits by which two machines see whether they have the same salt, and nothing else.

    Raises:
        MissingError: as `salt`.
    """
    return hashlib.sha256(b"fingerprint of the salt:" + salt().encode()).hexdigest()[:8]


def check_salt(expected: str | None) -> None:
    """Refuse to hash patients' names with another secret than before: they would change sides.

    Args:
        expected: the fingerprint of the secret; None: any will do.

    Raises:
        ParamsError: this machine has another.
        MissingError: as `salt`.
    """
    if expected is not None and fingerprint() != expected:
        raise ParamsError(
            f"ingest.salt is {expected}, but this machine's secret for patients' names is {fingerprint()}",
            f"get the secret the project was begun with, and name its file in {FILE}",
        )


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        # In a container: a number without a name, and no HOME.
        raise MissingError(
            "this user has no home, where the secret that patients' names are hashed with would be",
            f"set {VALUE} to a secret of your own, or {FILE} to a file that holds it",
        ) from None


def _own(path: Path) -> str:
    if not path.exists():
        try:
            _make(path)
        except OSError as error:
            raise MissingError(
                f"{path} cannot be made ({error.strerror})",
                f"set {VALUE} to a secret of your own, or {FILE} to a file that holds it",
            ) from None
    return _read(path)


def _make(path: Path) -> None:
    """Make a salt; where several processes do so at once, one of them wins and all use its salt."""
    from pipeline.progress import console

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{secrets.token_hex(4)}.salt")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A rename would replace the winner's salt; a link is refused where there is one.
        os.link(temporary, path)
    except FileExistsError:
        return
    finally:
        temporary.unlink(missing_ok=True)
    console.print(
        f"made {path}, the secret that patients' names are hashed with; other machines that work on "
        "the same data need the same file, or their splits differ",
        markup=False,
    )


def _read(path: Path) -> str:
    try:
        content = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise MissingError(
            f"{path} cannot be read as the salt ({type(error).__name__})",
            f"put the secret there, or set {VALUE}",
        ) from None
    if not content:
        raise MissingError(f"{path} is empty and holds no salt", f"put the secret there, or set {VALUE}")
    return content
