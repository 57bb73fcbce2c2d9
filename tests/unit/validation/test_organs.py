import pytest

from pipeline.errors import ParamsError
from pipeline.validation import organs
from pipeline.validation.organs import kind_of, kinds, pairs, side_of, words


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("LeftParotid", ["left", "parotid"]),
        ("left_parotid", ["left", "parotid"]),
        ("GTV_Mass_CT", ["gtv", "mass", "ct"]),
        ("liver", ["liver"]),
    ],
)
def test_a_name_is_taken_apart_into_its_words(label, found):
    assert words(label) == found


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("SpinalCord", "spinal cord"),
        ("kidneys", "kidney"),
        ("liver_tumor", "tumour"),
        ("Brainstem", "brainstem"),
        ("urinary_bladder", "bladder"),
        ("lung_upper_lobe_left", "lobe of the lung"),
        ("vertebrae_L1", "bone"),
        ("heart_atrium_left", "chamber of the heart"),
    ],
)
def test_an_organ_is_known_by_a_word_of_its_name(label, kind):
    assert kind_of(label).kind == kind


def test_part_of_a_word_is_no_word():
    assert kind_of("deliverance") is None
    assert kind_of("anterior") is None


def test_a_side_is_that_of_the_name_else_that_of_the_organ():
    assert [side_of(name) for name in ("left_kidney", "liver", "spleen", "aorta", "left_of_right")] == [
        "left",
        "right",
        "left",
        None,
        None,
    ]


def test_pairs_differ_in_the_side_alone():
    labels = ["liver", "LeftParotid", "kidney_right", "RightParotid", "kidney_left", "left_lung"]
    assert sorted(pairs(labels)) == [("LeftParotid", "RightParotid"), ("kidney_left", "kidney_right")]


def test_every_kind_has_words_and_ranges_in_order():
    for kind in kinds():
        assert kind.words
        for low, high in filter(None, (kind.hu, kind.ml)):
            assert low < high


def test_a_broken_file_says_where_to_look(tmp_path, monkeypatch):
    broken = tmp_path / "organs.yaml"
    broken.write_text("- kind: liver\n  colour: red\n")
    monkeypatch.setattr(organs, "FILE", broken)
    kinds.cache_clear()
    with pytest.raises(ParamsError, match=r"organs\.yaml cannot be read.*colour"):
        kinds()
    kinds.cache_clear()
