"""What is kept of the headers of many files, which make up a series, and the index of them."""

import json
import sqlite3
import subprocess
import sys

import pytest

from pipeline.volumes.identity import pseudonym
from pipeline.volumes.readers import dicom_headers
from pipeline.volumes.readers.dicom_headers import Header, read_headers
from pipeline.volumes.readers.dicom_series import image_series

SECRETS = {
    "PatientName": "Quixotic^Zebulon",
    "PatientID": "ID-776-ZZ",
    "PatientBirthDate": "19310713",
    "InstitutionName": "Saint Nowhere",
    "StudyDescription": "Pelvis of Quixotic",
    "AccessionNumber": "ACC4711",
}


@pytest.fixture(autouse=True)
def own_salt(monkeypatch):
    monkeypatch.setenv("HOUNSFIELD_SALT", "of these tests")


@pytest.fixture
def index(tmp_path):
    return tmp_path / "home" / "index" / "dicom.sqlite"


def says(text):
    parts = {part.lower() for secret in SECRETS.values() for part in secret.split("^")}
    return [part for part in parts if part in text.lower()]


def test_a_header_tells_what_belongs_together(tmp_path, dicom):
    (path,) = dicom.write_series(tmp_path, 1)
    header = read_headers([path])[path]
    assert (header.kind, header.modality) == ("image", "CT")
    assert (header.series, header.study, header.frame) == (dicom.SERIES, dicom.STUDY, dicom.FRAME)
    assert (header.columns, header.rows, header.frames) == (20, 24, 1)
    assert header.orientation == (1, 0, 0, 0, 1, 0)
    assert header.patient == pseudonym("case-0815")


def test_patients_of_two_hospitals_may_have_one_identifier(tmp_path, dicom):
    paths = dicom.write_series(tmp_path, 2, lambda k: {"IssuerOfPatientID": f"hospital {k}"})
    assert len({header.patient for header in read_headers(paths).values()}) == 2


def test_without_an_identifier_a_study_is_a_patient(tmp_path, dicom):
    paths = dicom.write_series(tmp_path, 4, lambda k: {"StudyInstanceUID": f"1.2.{k // 2}"}, PatientID=None)
    assert len({header.patient for header in read_headers(paths).values()}) == 2


@pytest.mark.parametrize("kind", ["RTSTRUCT", "SEG"])
def test_masks_tell_what_they_were_drawn_on(tmp_path, dicom, kind):
    path = dicom.save(dicom.drawn(kind, series="1.2.9", frame="1.2.8"), tmp_path / "m.dcm")
    header = read_headers([path])[path]
    assert (header.kind, header.refers_to, header.refers_frames) == (kind, ("1.2.9",), ("1.2.8",))


def test_other_files_are_none_and_damaged_ones_are_unreadable(tmp_path):
    contents = {"notes": b"text", "a.dcm": b"", "b.dcm": b"text", "c": b"\0" * 128 + b"DICM" + b"\xff" * 9}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    headers = read_headers([tmp_path / name for name in contents])
    kinds = [header and header.kind for header in headers.values()]
    assert kinds == [None, *["unreadable DICOM file"] * 3]


@pytest.mark.parametrize(
    "folder",
    ["ID-776-ZZ", "id776zz", "Zebulon_Quixotic", "x-QUIXOTIC-1", "scan of 19310713", "1931-07-13", "ACC4711"],
)
def test_folders_called_after_a_person_are_known(tmp_path, dicom, folder):
    (path,) = dicom.write_series(tmp_path / folder / "CT", 1, **SECRETS)
    assert read_headers([path])[path].leaking == (len(tmp_path.parts),)


@pytest.mark.parametrize("name", ["Müller^Jörg", "MUELLER^JOERG"])
@pytest.mark.parametrize("folder", ["Mueller", "müller", "Muller", "joerg_1"])
def test_umlauts_hide_nobody(tmp_path, dicom, name, folder):
    (path,) = dicom.write_series(tmp_path / folder, 1, PatientName=name, SpecificCharacterSet="ISO_IR 100")
    assert len(tmp_path.parts) in read_headers([path])[path].leaking


def test_short_identifiers_are_found_as_words_alone(tmp_path, dicom):
    found = {}
    for folder in ("patient_7", "series17"):
        (path,) = dicom.write_series(tmp_path / folder, 1, PatientID="7", PatientName="Li^O")
        found[folder] = bool(read_headers([path])[path].leaking)
    assert found == {"patient_7": True, "series17": False}


def test_nothing_of_a_person_is_in_a_header_or_in_the_index(tmp_path, dicom, index):
    paths = dicom.write_series(tmp_path / "Quixotic", 2, **SECRETS)
    headers = read_headers(paths, index)
    assert not says(repr(list(headers.values())))
    with sqlite3.connect(index) as database:
        rows = database.execute("SELECT * FROM headers").fetchall()
    database.close()
    assert len(rows) == 2
    assert not says(repr(rows))
    assert not any(says(file.read_bytes().decode("latin-1")) for file in index.parent.iterdir())


def test_a_header_survives_being_kept(tmp_path, dicom):
    path = dicom.save(dicom.drawn(images=["1.2.7"]), tmp_path / "m.dcm")
    header = read_headers([path])[path]
    assert Header.from_json(header.to_json()) == header
    json.loads(header.to_json())


def test_files_that_did_not_change_are_not_opened_again(tmp_path, dicom, index, monkeypatch):
    paths = dicom.write_series(tmp_path / "series", 3)
    (tmp_path / "notes").write_text("no DICOM")
    paths.append(tmp_path / "notes")
    first = read_headers(paths, index)
    opened = []
    header_of = dicom_headers.header_of
    monkeypatch.setattr(dicom_headers, "header_of", lambda path: opened.append(path) or header_of(path))
    assert read_headers(paths, index) == first
    assert opened == []
    dicom.save(dicom.dataset_of(1, Modality="MR"), paths[1])
    assert read_headers(paths, index)[paths[1]].modality == "MR"
    assert opened == [paths[1]]


def test_another_salt_makes_other_pseudonyms(tmp_path, dicom, index, monkeypatch):
    (path,) = dicom.write_series(tmp_path, 1)
    first = read_headers([path], index)[path]
    monkeypatch.setenv("HOUNSFIELD_SALT", "another")
    assert read_headers([path], index)[path].patient == pseudonym("case-0815") != first.patient


@pytest.mark.parametrize("content", [b"no database at all" * 200, b"", b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_damaged_index_is_made_anew(tmp_path, dicom, index, content):
    paths = dicom.write_series(tmp_path, 3)
    expected = read_headers(paths, index)
    index.write_bytes(content)
    assert read_headers(paths, index) == expected
    with sqlite3.connect(index) as database:
        assert database.execute("SELECT COUNT(*) FROM headers").fetchone() == (3,)
    database.close()


def test_an_index_of_other_columns_or_nonsense_in_it_is_no_harm(tmp_path, dicom, index):
    paths = dicom.write_series(tmp_path, 3)
    expected = read_headers(paths, index)
    for statement in (
        'UPDATE headers SET header = \'{"kind": 1, "what": 2}\'',
        "UPDATE headers SET header = 'nonsense'",
        "DROP TABLE headers",
        "CREATE TABLE headers (something INTEGER)",
    ):
        with sqlite3.connect(index) as database:
            database.execute("DROP TABLE IF EXISTS headers") if "CREATE" in statement else None
            database.execute(statement)
        database.close()
        assert read_headers(paths, index) == expected


def test_an_index_that_cannot_be_made_is_done_without(tmp_path, dicom):
    paths = dicom.write_series(tmp_path, 3)
    (tmp_path / "file").write_text("")
    assert len(read_headers(paths, tmp_path / "file" / "dicom.sqlite")) == 3


def test_processes_share_an_index(tmp_path, dicom, index):
    dicom.write_series(tmp_path / "series", 30)
    code = (
        "import sys; from pathlib import Path; "
        "from pipeline.volumes.readers.dicom_headers import read_headers; "
        "paths = sorted(Path(sys.argv[1]).iterdir()); "
        "print(all(header.kind == 'image' for header in read_headers(paths, Path(sys.argv[2])).values()))"
    )
    command = [sys.executable, "-W", "error", "-c", code, tmp_path / "series", index]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in started] == [b"True"] * 3


def headers_of(paths):
    return {path: header for path, header in read_headers(paths).items() if header is not None}


def test_series_are_told_apart_by_uid(tmp_path, dicom):
    one = dicom.write_series(tmp_path / "mixed")
    other = [
        dicom.save(dicom.dataset_of(k, SeriesInstanceUID="1.2.9"), tmp_path / "mixed" / f"b{k}.dcm")
        for k in range(3)
    ]
    series, strays = image_series(headers_of([*other, *one]))
    assert [one.paths for one in series] == [tuple(one), tuple(other)]
    assert strays == 0


def test_orientations_of_one_series_are_series_and_single_images_are_strays(tmp_path, dicom):
    axial = dicom.write_series(tmp_path / "a")
    sagittal = dicom.write_series(tmp_path / "b", 3, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    page = dicom.write_series(tmp_path / "c", 1, pixels=dicom.pixels_of(0, 40, 40))
    series, strays = image_series(headers_of([*axial, *sagittal, *page]))
    assert [len(one.paths) for one in series] == [4, 3]
    assert strays == 1


def test_a_series_that_can_be_no_volume_stays_together(tmp_path, dicom):
    paths = dicom.write_series(tmp_path / "a", 2)
    paths += dicom.write_series(tmp_path / "b", 2, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    series, strays = image_series(headers_of(paths))
    assert [len(one.paths) for one in series] == [4]
    assert strays == 0


def test_each_enhanced_object_is_a_series(tmp_path, dicom):
    paths = [dicom.save(dicom.enhanced(), tmp_path / f"{n}.dcm") for n in range(2)]
    assert [len(one.paths) for one in image_series(headers_of(paths))[0]] == [1, 1]
