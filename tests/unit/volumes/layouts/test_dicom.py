"""Trees of DICOM files in every arrangement, as cases."""

import os

import pytest

from pipeline.volumes.identity import pseudonym
from pipeline.volumes.layouts.dicom import find
from pipeline.volumes.readers import dicom_headers

PATIENT = "case-0815"


@pytest.fixture(autouse=True)
def own_salt(monkeypatch, tmp_path):
    monkeypatch.setenv("HOUNSFIELD_SALT", "of these tests")
    # No project here, and so no index.
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


@pytest.fixture
def series(source, dicom):
    """Writes a series of its own UID into a folder, and a mask drawn on it beside."""

    def write(folder, uid, patient, masks=("RTSTRUCT",), frame=None, modality="CT", count=3):
        elements = {
            "PatientID": patient,
            "PatientName": "Name^Of",
            "StudyInstanceUID": f"{uid}.0",
        }
        frame = frame or f"{uid}.3"
        dicom.write_series(
            source / folder / "image",
            count,
            lambda k: {"SOPInstanceUID": f"{uid}.7.{k}"},
            SeriesInstanceUID=uid,
            FrameOfReferenceUID=frame,
            Modality=modality,
            **elements,
        )
        for number, kind in enumerate(masks):
            mask = dicom.drawn(kind, series=uid, frame=frame, **elements)
            dicom.save(mask, source / folder / "mask" / f"M{number}.dcm")

    return write


def by_name(layout):
    return {case.case: case for case in layout.cases}


def names(paths):
    return sorted(str(path) for path in paths)


def test_a_folder_a_patient_is_a_case_each(source, series):
    series("first", "1.2.1", "p-100")
    series("second", "1.2.2", "p-200")
    layout = find(source)
    assert (layout.name, layout.modality, layout.left_out) == ("dicom", "CT", [])
    assert layout.declared.labels is None
    cases = by_name(layout)
    assert list(cases) == ["first", "second"]
    case = cases["first"]
    assert case.patient == pseudonym("p-100") != cases["second"].patient
    assert names(case.images[0]) == [f"first/image/slice{k}.dcm" for k in range(3)]
    assert [names(mask.paths) for mask in case.masks] == [["first/mask/M0.dcm"]]
    assert case.problem is None


def test_the_folder_that_tells_is_the_first_in_which_cases_differ(source, series):
    series("export/DICOM/a b/study1", "1.2.1", "p-100")
    series("export/DICOM/c/study1", "1.2.2", "p-200")
    assert list(by_name(find(source))) == ["a_b", "c"]


def test_a_folder_of_a_very_long_name_gives_its_case_a_shorter_one(source, series):
    for number in (1, 2):
        series(f"{'a' * 250}{number}", f"1.2.{number}", f"p{number}")
    names = [case.case for case in find(source).cases]
    assert len(set(names)) == 2
    assert max(map(len, names)) <= 160


def test_two_studies_of_a_patient_are_two_cases_in_the_order_of_their_uids(source, series):
    series("one/study2", "1.2.1", "p-100")
    series("one/study1", "1.2.2", "p-100")
    series("two", "1.2.3", "p-200")
    cases = by_name(find(source))
    assert list(cases) == ["one", "one_2", "two"]
    assert str(cases["one"].images[0][0]).startswith("one/study2")
    assert cases["one"].patient == cases["one_2"].patient


def test_a_flat_folder_of_several_patients_is_told_apart_by_pseudonyms(source, dicom):
    for patient in ("p-100", "p-200"):
        for k in range(3):
            dataset = dicom.dataset_of(k, SeriesInstanceUID=f"1.2.{patient[2:]}", PatientID=patient)
            dicom.save(dataset, source / "mixed" / f"{patient[2:]}-{k}.dcm")
    assert sorted(by_name(find(source))) == sorted([pseudonym("p-100"), pseudonym("p-200")])
    (source / "mixed").rename(source.parent / "flat")
    assert sorted(by_name(find(source.parent / "flat"))) == sorted([pseudonym("p-100"), pseudonym("p-200")])


@pytest.mark.parametrize("folder", ["P-100", "p100_ct", "nameof", "of the pope"])
def test_a_folder_called_after_the_patient_is_not_the_name_of_the_case(source, series, folder):
    series(folder, "1.2.1", "p-100")
    series("plain", "1.2.2", "q-7x9")
    # "Of" is too short a part of a name to be looked for.
    expected = pseudonym("p-100") if folder != "of the pope" else "of_the_pope"
    assert sorted(by_name(find(source))) == sorted([expected, "plain"])


def test_a_mask_alone_may_know_whom_a_folder_is_called_after(source, dicom, series):
    series("Mustermann", "1.2.1", "p-100", masks=())
    mask = dicom.drawn(series="1.2.1", PatientID="p-100", PatientName="MUSTERMANN^ERIKA")
    dicom.save(mask, source / "Mustermann" / "mask" / "M.dcm")
    assert list(by_name(find(source))) == [pseudonym("p-100")]


def test_series_without_a_mask_are_no_cases_where_the_patient_has_masks(source, series):
    series("one/planning", "1.2.1", "p-100")
    series("one/followup", "1.2.2", "p-100", masks=())
    layout = find(source)
    assert [names(case.images[0])[0] for case in layout.cases] == ["one/planning/image/slice0.dcm"]
    assert layout.left_out == ["1 series without a mask, of patients with masks"]


def test_without_masks_every_series_is_a_case_and_what_was_drawn_is_counted(source, series):
    series("one/planning", "1.2.1", "p-100", masks=("RTSTRUCT", "RTSTRUCT"))
    series("one/followup", "1.2.2", "p-100", masks=())
    series("two", "1.2.3", "p-200", masks=("SEG",))
    layout = find(source, with_masks=False)
    assert [(case.case, case.masks, case.problem) for case in layout.cases] == [
        ("one", (), None),
        ("one_2", (), None),
        ("two", (), None),
    ]
    assert layout.left_out == ["2 RTSTRUCTs", "1 SEG"]


def test_a_patient_without_masks_has_a_case_a_series(source, series):
    series("one/a", "1.2.1", "p-100", masks=())
    series("one/b", "1.2.2", "p-100", masks=())
    series("two", "1.2.3", "p-200")
    layout = find(source)
    assert [(case.case, len(case.masks)) for case in layout.cases] == [("one", 0), ("one_2", 0), ("two", 1)]
    assert layout.left_out == []


def test_several_segmentations_are_masks_of_one_case(source, series):
    series("one", "1.2.1", "p-100", masks=("SEG", "SEG"))
    (case,) = find(source).cases
    assert len(case.masks) == 2
    assert case.problem is None


def test_a_segmentation_may_be_a_label_map(source, dicom, series):
    series("one", "1.2.1", "p-100", masks=())
    label_map = dicom.drawn("SEG", series="1.2.1", PatientID="p-100")
    label_map.SOPClassUID = label_map.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
    dicom.save(label_map, source / "one" / "mask.dcm")
    layout = find(source)
    assert [len(case.masks) for case in layout.cases] == [1]
    assert layout.left_out == []


def test_two_rtstructs_of_one_series_are_a_problem(source, series):
    series("one", "1.2.1", "p-100", masks=("RTSTRUCT", "RTSTRUCT"))
    (case,) = find(source).cases
    assert case.problem.reason == "2 RTSTRUCT files were drawn on its series (M0.dcm, M1.dcm)"
    assert "keep the one that is meant" in case.problem.remedy
    assert not case.complete


def test_rtstructs_called_after_the_patient_are_not_named(source, dicom, series):
    series("one", "1.2.1", "p-100", masks=())
    for number in range(2):
        mask = dicom.drawn(series="1.2.1", PatientID="p-100")
        dicom.save(mask, source / "one" / f"RS.P-100.{number}.dcm")
    (case,) = find(source).cases
    assert "P-100" not in str(case.problem)


def test_a_copy_of_an_rtstruct_is_no_second_one(source, series):
    series("one", "1.2.1", "p-100")
    mask = source / "one" / "mask" / "M0.dcm"
    (mask.parent / "copy.dcm").write_bytes(mask.read_bytes())
    layout = find(source)
    assert (len(layout.cases[0].masks), layout.cases[0].problem) == (1, None)
    assert layout.left_out == ["1 copy of RTSTRUCT or SEG files"]


@pytest.mark.parametrize("kind", ["RTSTRUCT", "SEG"])
def test_a_mask_without_its_image_is_a_case_of_its_own(source, dicom, series, kind):
    series("one", "1.2.1", "p-100")
    mask = dicom.drawn(kind, series="1.2.99", frame="1.2.98", PatientID="p-300")
    dicom.save(mask, source / "lonely" / "M.dcm")
    case = by_name(find(source))["lonely"]
    assert (case.images, len(case.masks), case.patient) == ((), 1, pseudonym("p-300"))


def test_a_mask_that_names_another_series_is_not_put_on_this_one(source, dicom, series):
    series("one", "1.2.1", "p-100", masks=())
    mask = dicom.drawn(series="1.2.99", frame="1.2.98", PatientID="p-100")
    dicom.save(mask, source / "one" / "M.dcm")
    layout = find(source)
    assert [(len(case.images), len(case.masks)) for case in layout.cases] == [(0, 1)]
    assert layout.left_out == ["1 series without a mask, of patients with masks"]


def test_a_frame_of_reference_tells_where_the_series_is_not_named(source, dicom, series):
    series("one/a", "1.2.1", "p-100", masks=(), frame="1.2.50")
    series("one/b", "1.2.2", "p-100", masks=(), frame="1.2.60")
    dicom.save(dicom.drawn(series=None, frame="1.2.60", PatientID="p-100"), source / "one" / "M.dcm")
    (case,) = find(source).cases
    assert names(case.images[0])[0] == "one/b/image/slice0.dcm"
    assert len(case.masks) == 1


def test_a_frame_of_reference_of_somebody_else_tells_nothing(source, dicom, series):
    series("one", "1.2.1", "p-100", masks=(), frame="1.2.50")
    dicom.save(dicom.drawn(series=None, frame="1.2.50", PatientID="p-200"), source / "one" / "M.dcm")
    assert sorted((len(case.images), len(case.masks)) for case in find(source).cases) == [(0, 1), (1, 0)]


def test_a_frame_of_reference_that_two_series_share_tells_nothing(source, dicom, series):
    series("one/a", "1.2.1", "p-100", masks=(), frame="1.2.50")
    series("one/b", "1.2.2", "p-100", masks=(), frame="1.2.50")
    dicom.save(dicom.drawn(series=None, frame="1.2.50", PatientID="p-100"), source / "one" / "M.dcm")
    (case,) = find(source).cases
    assert (case.images, len(case.masks)) == ((), 1)


def test_a_mask_that_names_nothing_belongs_to_the_only_series_beside_it(source, dicom, series):
    series("one", "1.2.1", "p-100", masks=())
    series("two", "1.2.2", "p-100", masks=())
    dicom.save(dicom.drawn(series=None, frame=None, PatientID="p-100"), source / "two" / "M.dcm")
    (case,) = find(source).cases
    assert (case.case, len(case.images), len(case.masks)) == ("two", 1, 1)


def test_a_mask_goes_to_the_part_of_a_series_whose_image_it_names(source, dicom):
    dicom.write_series(source / "one" / "a", 5)
    dicom.write_series(
        source / "one" / "b",
        3,
        lambda k: {"SOPInstanceUID": f"1.2.7.{k}"},
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
    )
    dicom.save(dicom.drawn(images=["1.2.7.1"]), source / "one" / "M.dcm")
    (case,) = find(source).cases
    assert names(case.images[0])[0] == "one/b/slice0.dcm"


def test_what_is_no_image_is_left_out_and_counted(source, dicom, series):
    series("one", "1.2.1", "p-100")
    uid = "1.2.840.10008.5.1.4.1.1."
    others = [
        {"SOPClassUID": f"{uid}88.22"},
        {"SOPClassUID": f"{uid}11.1"},
        {"SOPClassUID": f"{uid}7", "Modality": "OT"},
        {"SOPClassUID": f"{uid}104.1"},
        {"SOPClassUID": f"{uid}128"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"SOPClassUID": f"{uid}7", "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
    ]
    for number, elements in enumerate(others):
        dicom.save(dicom.dataset_of(**elements), source / "others" / f"{number}.dcm")
    (source / "others" / "bad.dcm").write_bytes(b"bad")
    (source / "readme.txt").write_text("no DICOM")
    (source / ".hidden").write_text("no DICOM")
    layout = find(source)
    assert list(by_name(layout)) == ["one"]
    assert layout.left_out == [
        "1 PET image",
        "1 colour picture",
        "1 encapsulated document",
        "1 presentation state",
        "2 scout images",
        "1 secondary capture",
        "1 structured report",
        "1 unreadable DICOM file",
        "1 file not DICOM",
    ]


def test_a_folder_of_unreadable_files_is_a_case_with_a_problem(source, series):
    series("one", "1.2.1", "p-100")
    (source / "Mustermann").mkdir()
    for number in range(2):
        (source / "Mustermann" / f"{number}.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
    layout = find(source)
    (lost,) = [case for case in layout.cases if case.case != "one"]
    assert lost.case == pseudonym("Mustermann", "folder")
    assert names(lost.images[0]) == ["Mustermann/0.dcm", "Mustermann/1.dcm"]
    assert "none of the 2 DICOM files of a folder can be read" in lost.problem.reason
    assert layout.left_out == []


BROKEN = b"\0" * 128 + b"DICM" + b"\xff" * 50
"""Looks like DICOM, and says nothing."""


@pytest.mark.parametrize(
    ("name", "content"),
    [("slice9.dcm", b""), ("slice9.dcm", BROKEN), ("elsewhere.dcm", BROKEN), ("slice9.DCM", b"x" * 999)],
)
def test_a_damaged_file_among_slices_may_be_one_that_is_missing(source, series, name, content):
    for folder, uid in (("one", "1.2.1"), ("two", "1.2.2")):
        series(folder, uid, f"p-{folder}")
    (source / "one" / "image" / name).write_bytes(content)
    layout = find(source)
    cases = by_name(layout)
    reason = cases["one"].problem.reason
    assert reason.startswith("1 file among its slices cannot be read")
    assert name not in reason, "it may name a person"
    assert f"by name number {1 if name == 'elsewhere.dcm' else 4} of 4" in reason
    assert cases["one"].problem.remedy
    assert not cases["one"].complete
    assert cases["two"].problem is None
    assert layout.left_out == []


@pytest.mark.parametrize("share", [0.25, 0.4, 0.5, 0.6])
def test_a_last_slice_that_is_cut_off_in_its_header_is_no_series_of_its_own(source, series, share):
    series("one", "1.2.1", "p-100", count=4)
    path = source / "one" / "image" / "slice3.dcm"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    (case,) = find(source).cases
    # Either it is known to be damaged, or it is among the slices, for the reader to refuse.
    assert case.problem is not None or len(case.images[0]) == 4


def test_an_image_that_does_not_say_which_way_it_lies_may_be_the_missing_slice(source, series, dicom):
    series("one", "1.2.1", "p-100")
    elements = {"SeriesInstanceUID": "1.2.1", "FrameOfReferenceUID": "1.2.1.3", "PatientID": "p-100"}
    lost = dicom.dataset_of(3, ImageOrientationPatient=None, **elements)
    dicom.save(lost, source / "one" / "image" / "slice3.dcm")
    (case,) = find(source).cases
    assert "1 file among its slices" in case.problem.reason


def test_a_damaged_slice_without_a_suffix_is_known_by_its_name(source, series):
    series("one", "1.2.1", "p-100")
    folder = source / "one" / "image"
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"IM{number:04}")
    (folder / "IM0003").write_bytes(b"\0" * 4000)
    (folder / "VERSION").write_bytes(b"1")
    layout = find(source)
    assert "1 file among its slices" in layout.cases[0].problem.reason
    assert layout.left_out == ["1 file not DICOM"]


def test_what_is_left_of_a_damaged_file_tells_its_series(source, series):
    for number, folder in enumerate(("one", "two", "three"), start=1):
        series(folder, f"1.2.{number}", f"p-{folder}")
        for path in sorted((source / folder / "image").iterdir()):
            path.rename(source / f"{folder}-{path.name}")
    damaged = (source / "two-slice1.dcm").read_bytes()
    (source / "x.dcm").write_bytes(BROKEN + damaged[200:900])
    layout = find(source)
    problems = [case.problem.reason for case in layout.cases if case.problem]
    assert len(layout.cases) == 3
    assert len(problems) == 1
    (case,) = (case for case in layout.cases if case.problem)
    assert "two-slice0.dcm" in names(case.images[0])
    assert layout.left_out == []


def test_a_damaged_file_beside_masks_alone_is_only_counted(source, series):
    series("one", "1.2.1", "p-100")
    (source / "one" / "mask" / "report.dcm").write_bytes(BROKEN)
    layout = find(source)
    assert layout.cases[0].problem is None
    assert layout.left_out == ["1 unreadable DICOM file"]


def test_files_with_neither_preamble_nor_suffix_are_found(source, dicom):
    for k in range(3):
        dicom.save_without_preamble(dicom.dataset_of(k), source / f"IM{k}")
    (source / "notes").write_bytes(b"\x08\x00 no element of DICOM")
    layout = find(source)
    (case,) = layout.cases
    assert names(case.images[0]) == ["IM0", "IM1", "IM2"]
    assert layout.left_out == ["1 file not DICOM"]


def test_a_modality_is_told_if_all_have_the_same(source, series):
    series("one", "1.2.1", "p-100")
    series("two", "1.2.2", "p-200", modality="MR")
    assert find(source).modality is None


def test_where_there_is_no_dicom_nothing_is_found_and_nothing_made(source, monkeypatch, tmp_path):
    monkeypatch.delenv("HOUNSFIELD_SALT")
    monkeypatch.setenv("HOME", str(tmp_path))
    (source / "a").mkdir()
    for name in ("a/image.nii.gz", "a/notes", "table.csv"):
        (source / name).write_text("x")
    assert find(source) is None
    assert sorted(os.listdir(tmp_path)) == ["raw"]


def test_links_in_a_circle_end(source, series):
    series("one", "1.2.1", "p-100")
    (source / "one" / "again").symlink_to(source, target_is_directory=True)
    assert len(find(source).cases) == 1


def test_a_source_that_is_a_link_is_followed(source, series, tmp_path):
    series("one", "1.2.1", "p-100")
    (tmp_path / "link").symlink_to(source)
    (case,) = find(tmp_path / "link").cases
    assert names(case.images[0])[0] == "one/image/slice0.dcm"


def test_in_a_project_the_second_look_opens_no_file(source, series, tmp_path, monkeypatch):
    series("one", "1.2.1", "p-100")
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("HOUNSFIELD_HOME", str(tmp_path / "home"))
    first = find(source)
    assert (tmp_path / "home" / "index" / "dicom.sqlite").is_file()
    monkeypatch.setattr(dicom_headers, "header_of", None)
    assert find(source) == first


def test_nothing_of_a_person_is_in_a_layout(source, dicom):
    secrets = {
        "PatientName": "Quixotic^Zebulon",
        "PatientID": "ID-776-ZZ",
        "PatientBirthDate": "19310713",
        "InstitutionName": "Saint Nowhere",
        "StudyDescription": "Pelvis of Quixotic",
        "AccessionNumber": "ACC4711",
    }
    dicom.write_series(source / "plain", **secrets)
    for number in range(2):
        dicom.save(dicom.drawn(**secrets), source / "plain" / f"m{number}.dcm")
    said = repr(find(source)).lower()
    for secret in secrets.values():
        assert not any(part.lower() in said for part in secret.split("^"))
