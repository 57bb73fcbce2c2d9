"""Whether a name of a file or folder gives away whose images it holds."""

import re
import unicodedata
from functools import lru_cache

from pydicom import Dataset
from pydicom.multival import MultiValue

TAGS = (
    "PatientID",
    "OtherPatientIDs",
    "PatientName",
    "OtherPatientNames",
    "PatientBirthDate",
    "AccessionNumber",
)
"""What is compared; nothing of it is ever kept."""
SHORTEST = 3
"""Letters; a shorter part of a name, or number, is found by chance inside other words."""
UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "å": "aa", "ø": "oe", "æ": "ae"})


def identifying_words(dataset: Dataset) -> frozenset[str]:
    """Letters and digits of the identifiers and of each part of the names in a header."""
    words: set[str] = set()
    for tag in TAGS:
        value = dataset.get(tag)
        for entry in value if isinstance(value, MultiValue) else [value]:
            words |= _parts(str(entry or "")) if tag.endswith(("Name", "Names")) else _forms(str(entry or ""))
    return frozenset(word for word in words if word)


def words_of(identifier: str) -> frozenset[str]:
    """The same of what a list calls a patient; without digits it may be a name, whose parts count."""
    words = _forms(identifier) | (set() if re.search(r"\d", identifier) else _parts(identifier))
    return frozenset(word for word in words if word)


def names_person(text: str, words: frozenset[str]) -> bool:
    """Whether a name of a file or folder holds one of these words, however it writes them."""
    forms, tokens = _spellings(text)
    return any(
        word in tokens or (len(word) >= SHORTEST and any(word in form for form in forms)) for word in words
    )


@lru_cache(maxsize=4096)
def _spellings(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """A name as a whole, and its words; folders are asked about for each of their files."""
    tokens = re.split(r"[\W_]+", text)
    return frozenset(_forms(text)), frozenset(form for token in tokens for form in _forms(token))


def _parts(name: str) -> set[str]:
    """The parts of a person's name, which DICOM divides by '^' and '='."""
    parts = [part for part in re.split(r"[\W_]+", name) if len(re.sub(r"\d", "", part)) >= _least(part)]
    return {form for part in parts for form in _forms(part)}


def _least(part: str) -> int:
    """Names in other scripts are often of one or two letters."""
    return SHORTEST if part.isascii() else 1


def _forms(text: str) -> set[str]:
    """Lower-case letters and digits alone; Müller also as mueller and muller, and Mueller as muller."""
    folded = unicodedata.normalize("NFC", text).casefold()
    spelled = folded.translate(UMLAUTS)
    forms = (folded, spelled, re.sub("([aou])e", r"\1", spelled))
    return {"".join(c for c in unicodedata.normalize("NFKD", form) if c.isalnum()) for form in forms}
