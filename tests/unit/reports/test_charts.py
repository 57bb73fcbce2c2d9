import re

from pipeline.reports.charts import WIDTH, difference_chart, line_chart, paired_chart, strip_chart


def dots(svg):
    return [
        (float(x), float(y)) for x, y in re.findall(r'<circle class="dot" cx="([\d.]+)" cy="([\d.]+)"', svg)
    ]


def test_dots_stand_where_their_value_is():
    (worst, _), (best, _) = dots(strip_chart({"liver": [("a", 1.0), ("b", 0.0)]}))
    middle = dots(strip_chart({"liver": [("a", 0.5)]}))[0][0]
    assert worst < middle < best <= WIDTH
    assert middle == (worst + best) / 2


def test_dots_with_one_value_do_not_hide_each_other():
    places = dots(strip_chart({"liver": [("a", 0.9), ("b", 0.9), ("c", 0.9)]}))
    assert len(set(places)) == 3


def test_the_bar_is_the_median():
    svg = strip_chart({"liver": [("a", 0.0), ("b", 0.5), ("c", 0.5), ("d", 1.0)]})
    bar = re.search(r'class="median" x1="([\d.]+)"', svg)
    assert float(bar[1]) == dots(strip_chart({"liver": [("a", 0.5)]}))[0][0]


def test_a_group_without_values_has_its_name_and_no_dot():
    svg = strip_chart({"spleen": []})
    assert "spleen" in svg
    assert dots(svg) == []


def test_names_are_escaped():
    assert "<b>" not in strip_chart({"<b>": [("<b>", 0.5)]})


def test_a_rising_curve_rises_and_stays_inside():
    svg = line_chart([(0, 0.0), (50, 0.5), (100, 2.0)], 0, 1, "Dice")
    points = [tuple(map(float, pair.split(","))) for pair in re.search(r'points="([^"]*)"', svg)[1].split()]
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)
    assert all(0 <= x <= WIDTH and y >= 0 for x, y in points)


def test_a_flat_curve_and_a_single_point_are_drawn():
    assert "<polyline" in line_chart([(0, 0.5)], 0.5, 0.5, "loss")


def test_a_difference_stands_right_of_its_bound_and_of_what_it_may_lose():
    rows = [("liver", 0.02, 0.01), ("spleen", -0.03, -0.05)]
    svg = difference_chart(rows, 0.01, "difference")
    margin, zero = (float(x) for x in re.findall(r'<text x="([\d.]+)" y="14"', svg))
    (gained, _), (lost, _) = dots(svg)
    bounds = [float(x) for x in re.findall(r'class="curve" x1="([\d.]+)"', svg)]
    assert 0 <= bounds[1] < lost < margin < zero < bounds[0] < gained <= WIDTH


def test_no_difference_at_all_and_no_margin_is_drawn():
    svg = difference_chart([("liver", 0.0, 0.0)], 0.0, "difference")
    assert len(dots(svg)) == 1


def test_a_dot_above_the_line_is_the_better_challenger():
    svg = paired_chart([("a", 0.55, 0.9), ("b", 0.9, 0.55), ("c", 1.0, 1.0)], "champion", "challenger")
    (line,) = re.findall(r'class="axis" x1="(\d+)" x2="(\d+)" y1="(\d+)" y2="(\d+)"', svg)
    left, right, bottom, top = map(float, line)
    above = [(bottom - y) - (x - left) for x, y in dots(svg)]
    assert above[0] > 0 > above[1]
    assert abs(above[2]) < 0.2
    assert all(left <= x <= right and top <= y <= bottom for x, y in dots(svg))
    assert ">0.5</text>" in svg, "the axes begin at the tenth below the lowest"


def test_models_without_a_dice_above_zero_or_below_one_are_drawn():
    for value in (0.0, 1.0):
        assert len(dots(paired_chart([("a", value, value)], "champion", "challenger"))) == 1
