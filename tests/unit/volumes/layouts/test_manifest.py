from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.volumes.layouts import find_layout
from pipeline.volumes.layouts.manifest import find

pytestmark = pytest.mark.usefixtures("pseudonyms")


def _table(source: Path, *rows: str, name: str = "manifest.csv", encoding: str = "utf-8") -> Path:
    (source / name).write_text("\n".join(rows) + "\n", encoding=encoding)
    return source


def test_a_row_is_a_case(tmp_path: Path, touch: Any, cases_of: Any) -> None:
    touch("ct/a.nii.gz", "seg/a.nii.gz", "ct/b.nii.gz", "seg/b.nii.gz", "ct/unlisted.nii.gz")
    _table(tmp_path, "image,label,patient", "ct/b.nii.gz,seg/b.nii.gz,P 1", "ct/a.nii.gz,seg/a.nii.gz,P 1")
    layout = find_layout(tmp_path)
    cases = cases_of(layout)
    assert (layout.name, layout.documents) == ("manifest", (Path("manifest.csv"),))
    assert layout.declared.labels is None
    assert list(cases) == ["a", "b"]
    assert cases["a"].images == ((Path("ct/a.nii.gz"),),)
    assert [(mask.label, mask.paths) for mask in cases["a"].masks] == [(None, (Path("seg/a.nii.gz"),))]
    assert cases["a"].patient == cases["b"].patient == "hash of P 1"
    assert cases["a"].complete
    assert cases["a"].annotated is None


def test_patients_are_called_by_their_pseudonym_alone(
    tmp_path: Path, touch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("HOUNSFIELD_SALT", "for this test")
    touch("a.nii.gz", "b.nii.gz")
    _table(tmp_path, "image,label,patient_id", "a.nii.gz,b.nii.gz,Quixote 1605")
    assert "Quixote" not in str(find(tmp_path))


def test_a_name_that_tells_the_patient_gives_way_to_a_pseudonym(
    tmp_path: Path, touch: Any, cases_of: Any
) -> None:
    touch(*(f"{who}/{what}.nii.gz" for who in ("Doe_John", "b") for what in ("ct", "seg", "late")))
    rows = [
        f"{who}/{what}.nii.gz,{who}/seg.nii.gz,John DOE"
        for who in ("Doe_John", "b")
        for what in ("ct", "late")
    ]
    cases = cases_of(find(_table(tmp_path, "image,label,patient", *rows)))
    named = {"hash_of_Doe_John_ct.nii.gz", "hash_of_Doe_John_late.nii.gz"}
    assert set(cases) == {"b_ct", "b_late"} | named
    rows = ["b/ct.nii.gz,b/seg.nii.gz,Doe,Doe_1"]
    assert set(cases_of(find(_table(tmp_path, "image,label,patient,case", *rows)))) == {"Doe_1"}, "as listed"


def test_a_name_that_tells_whom_a_dicom_header_names_gives_way_to_a_pseudonym(
    tmp_path: Path, touch: Any, cases_of: Any, dicom: Any
) -> None:
    touch("seg.nii.gz")
    for folder in ("Secretname_Given/CT/image", "P2/CT/image"):
        dicom.write_series(tmp_path / folder, 2, PatientName="Secretname^Given", PatientID="4711")
    rows = [f"{folder}/CT/image,seg.nii.gz,p" for folder in ("Secretname_Given", "P2")]
    cases = cases_of(find(_table(tmp_path, "image,label,patient", *rows)))
    assert set(cases) == {"P2_CT_image", "hash_of_Secretname_Given_CT_image"}


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.tsv", "manifest.parquet"])
def test_every_kind_of_table_is_read(tmp_path: Path, touch: Any, cases_of: Any, name: str) -> None:
    touch("a.nii.gz", "seg.nii.gz", "b.nii.gz")
    table = pd.DataFrame(
        {
            "image": ["a.nii.gz", "b.nii.gz"],
            "label": ["seg.nii.gz", None],
            "patient": pd.array([7, 8], dtype="Int64"),
            "case": ["one", None],
        }
    )
    if name.endswith("parquet"):
        table.to_parquet(tmp_path / name)
    else:
        table.to_csv(tmp_path / name, index=False, sep="," if name.endswith("csv") else "\t")
    cases = cases_of(find(tmp_path))
    assert list(cases) == ["b", "one"]
    assert (cases["one"].patient, cases["b"].patient) == ("hash of 7", "hash of 8")
    assert cases["one"].complete
    assert cases["b"].masks == ()


def test_a_number_stays_whole_where_others_are_missing(
    tmp_path: Path, touch: Any, cases_of: Any, problem_of: Any
) -> None:
    touch("a.nii.gz", "b.nii.gz")
    table = pd.DataFrame({"image": ["a.nii.gz", "b.nii.gz"], "label": ["a.nii.gz"] * 2, "patient": [7, None]})
    table.to_parquet(tmp_path / "manifest.parquet")
    cases = cases_of(find(tmp_path))
    assert cases["a"].patient in ("hash of 7", "hash of 7.0")
    assert "row 3 names no patient" in problem_of(cases["b"])


@pytest.mark.parametrize("columns", ["image_10,image_2,image_0", "channel_t2,channel_t1,channel_flair"])
def test_channels_are_images_of_one_case(tmp_path: Path, touch: Any, cases_of: Any, columns: str) -> None:
    touch("a/x.nii.gz", "a/y.nii.gz", "a/z.nii.gz", "seg.nii.gz")
    _table(tmp_path, f"case,{columns},label,patient", "c,a/x.nii.gz,a/y.nii.gz,a/z.nii.gz,seg.nii.gz,p")
    order = "zyx" if columns.startswith("image") else "xyz"
    assert cases_of(find(tmp_path))["c"].images == tuple((Path(f"a/{name}.nii.gz"),) for name in order)


def test_a_missing_channel_is_told(tmp_path: Path, touch: Any, cases_of: Any, problem_of: Any) -> None:
    touch("x.nii.gz", "seg.nii.gz")
    _table(tmp_path, "image_0,image_1,label,patient", "x.nii.gz,,seg.nii.gz,p")
    assert "row 2 gives no path for channel 1" in problem_of(cases_of(find(tmp_path))["x"])


def test_masks_of_organs(tmp_path: Path, touch: Any, cases_of: Any) -> None:
    touch("a.nii.gz", "b.nii.gz", "liver.nii.gz", "spleen.nii.gz")
    _table(
        tmp_path,
        "image,label:spleen,label: liver,patient",
        "a.nii.gz,spleen.nii.gz,liver.nii.gz,p",
        "b.nii.gz,,liver.nii.gz,q",
    )
    layout = find(tmp_path)
    assert layout is not None
    cases = cases_of(layout)
    assert [(mask.label, mask.paths[0].name) for mask in cases["a"].masks] == [
        ("spleen", "spleen.nii.gz"),
        ("liver", "liver.nii.gz"),
    ]
    assert cases["b"].annotated == ("liver",), "an empty cell says nothing of the organ"
    assert cases["b"].complete
    assert layout.declared.labels == {"liver": 1, "spleen": 2}


def test_a_label_map_and_masks_of_organs_go_together(tmp_path: Path, touch: Any, cases_of: Any) -> None:
    touch("a.nii.gz", "map.nii.gz", "liver.nii.gz")
    _table(tmp_path, "image,label,label:liver,patient", "a.nii.gz,map.nii.gz,liver.nii.gz,p")
    (case,) = cases_of(find(tmp_path)).values()
    assert [mask.label for mask in case.masks] == [None, "liver"]
    assert case.annotated is None


@pytest.mark.parametrize(
    ("cell", "annotated"), [("liver; spleen", ("liver", "spleen")), ("liver;", ("liver",)), ("", None)]
)
def test_what_is_annotated(tmp_path: Path, touch: Any, cases_of: Any, cell: str, annotated: Any) -> None:
    touch("a.nii.gz", "seg.nii.gz")
    _table(tmp_path, "image,label,patient,annotated", f"a.nii.gz,seg.nii.gz,p,{cell}")
    assert cases_of(find(tmp_path))["a"].annotated == annotated


def test_a_folder_stands_for_the_dicom_slices_in_it(
    tmp_path: Path, touch: Any, cases_of: Any, problem_of: Any
) -> None:
    touch("p1/1.2.3/2.dcm", "p1/1.2.3/1.dcm", "p1/1.2.3/notes.txt", "p1/1.2.3/.hidden.dcm", "p1/rt.dcm")
    (tmp_path / "p1/1.2.3/0").write_bytes(bytes(128) + b"DICM")
    touch("p2/1.2.4/readme.txt")
    _table(tmp_path, "image,label,patient", "p1/1.2.3,p1/rt.dcm,p", "p2/1.2.4/,p1/rt.dcm,q")
    cases = cases_of(find(tmp_path))
    assert cases["1.2.3"].images == (tuple(Path(f"p1/1.2.3/{name}") for name in ("0", "1.dcm", "2.dcm")),)
    assert cases["1.2.3"].masks[0].paths == (Path("p1/rt.dcm"),)
    assert "the folder 1.2.4 holds no DICOM file" in problem_of(cases["1.2.4"])


def test_companions_stand_behind_their_header(tmp_path: Path, touch: Any, cases_of: Any) -> None:
    touch("a.hdr", "a.img", "seg.nii.gz")
    _table(tmp_path, "image,label,patient", "a.img,seg.nii.gz,p")
    assert cases_of(find(tmp_path))["a"].images == ((Path("a.hdr"), Path("a.img")),)


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.nii.gz", "x/../../secret.nii.gz", ".."])
def test_a_path_out_of_the_source_is_told_and_not_followed(
    tmp_path: Path, cases_of: Any, problem_of: Any, path: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "secret.nii.gz").touch()
    _table(source, "image,label,patient,case", f"{path},,p,c")
    case = cases_of(find(source))["c"]
    assert "leads out of the source" in problem_of(case)
    assert case.paths == []


def test_rows_of_one_case_are_told_by_their_numbers(
    tmp_path: Path, touch: Any, cases_of: Any, problem_of: Any
) -> None:
    touch("a.nii.gz", "b.nii.gz", "c.nii.gz", "seg.nii.gz")
    rows = (
        "a.nii.gz,seg.nii.gz,p,one",
        "b.nii.gz,seg.nii.gz,p,one",
        "c.nii.gz,seg.nii.gz,p,",
        "c.nii.gz,seg.nii.gz,q,",
    )
    cases = cases_of(find(_table(tmp_path, "image,label,patient,case", *rows)))
    assert "row 2 and row 3 are of one name" in problem_of(cases["one"])
    assert "row 4 and row 5 are of one name" in problem_of(cases["c"]), "they name different patients"


def test_empty_cells_and_rows(tmp_path: Path, touch: Any, cases_of: Any, problem_of: Any) -> None:
    touch("a.nii.gz", "seg.nii.gz")
    rows = ("a.nii.gz,,p", ",seg.nii.gz,p", ",,p", ",,", "a.nii.gz,seg.nii.gz,")
    cases = cases_of(find(_table(tmp_path, "image,label,patient", *rows)))
    assert "row 4 names no file" in problem_of(cases.pop("row_4"))
    assert (cases["seg"].images, cases["seg"].problem) == ((), None)
    assert set(cases) == {"a", "seg"}, "a row of nothing is nothing"
    assert "row 2 and row 6" in problem_of(cases["a"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_quotes_spaces_and_a_byte_order_mark(
    tmp_path: Path, touch: Any, cases_of: Any, encoding: str
) -> None:
    touch("Müller, A.nii.gz", "seg.nii.gz")
    _table(tmp_path, "image , label,patient", '"Müller, A.nii.gz" ,  seg.nii.gz,"p ""1"""', encoding=encoding)
    (case,) = cases_of(find(tmp_path)).values()
    assert case.complete
    assert (case.case, case.patient) == ("M_ller__A", 'hash of p "1"')


@pytest.mark.parametrize("cell", ["NA", "nan", "null"])
def test_words_that_pandas_takes_for_nothing_are_names(
    tmp_path: Path, touch: Any, cases_of: Any, cell: str
) -> None:
    touch("a.nii.gz", "seg.nii.gz")
    _table(tmp_path, "image,label,patient", f"a.nii.gz,seg.nii.gz,{cell}")
    assert cases_of(find(tmp_path))["a"].patient == f"hash of {cell}"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("label,patient", "no column image; it has label, patient"),
        ("image,patient", "no column label"),
        ("image,label", "no column patient"),
        ("a;b", "no column image and no column label and no column patient"),
        ("image,image_0,label,patient", "names images by image and image_0"),
        ("image_0,channel_ct,label,patient", "names images by image_0 and channel_ct"),
    ],
)
def test_a_table_without_its_columns_is_refused(tmp_path: Path, header: str, reason: str) -> None:
    _table(tmp_path, header, ",".join("x" for _ in header.split(",")))
    with pytest.raises(DataError, match=rf"manifest\.csv .*{reason}") as refused:
        find(tmp_path)
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read as a table"),
        (b"image,label,patient\n", "has no row"),
        (b"image,label,patient\na,b,c\na,b,c,d,e\n", "cannot be read as a table"),
        (b"image,label,patient\n\xe4\xff,b,c\n", "cannot be read as a table"),
        (b'image,label,patient\n"a,b,c\n', "cannot be read as a table"),
    ],
)
def test_a_broken_table_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"manifest\.csv {reason}"):
        find(tmp_path)


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(DataError, match=r"manifest\.parquet cannot be read as a table"):
        find(tmp_path)


def test_rows_that_are_longer_than_the_header_are_refused(tmp_path: Path, touch: Any) -> None:
    touch("a.nii.gz", "seg.nii.gz")
    _table(tmp_path, "image,label,patient", "a.nii.gz,seg.nii.gz,p,", "b.nii.gz,seg.nii.gz,p,")
    with pytest.raises(DataError, match=r"manifest\.csv cannot be read as a table \(its rows are longer"):
        find(tmp_path)


def test_two_manifests_are_refused(tmp_path: Path) -> None:
    for name in ("manifest.csv", "manifest.tsv"):
        _table(tmp_path, "image,label,patient", name=name)
    with pytest.raises(DataError, match=r"manifest\.csv and manifest\.tsv: keep one"):
        find(tmp_path)


def test_without_a_manifest_it_is_another_layout(tmp_path: Path) -> None:
    assert find(_table(tmp_path, "image,label,patient", name="cases.csv")) is None
