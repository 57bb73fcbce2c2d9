import re

from pipeline.reports.charts import WIDTH, line_chart, strip_chart


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
