"""Tables, curves and meters of the command line."""

from hypothesis import given
from hypothesis import strategies as st

from factorstream.worker.cli.demo_view import WIDTH, curve, meter
from factorstream.worker.cli.printing import table

cells = st.text(max_size=12)


@given(st.lists(st.tuples(cells, cells), min_size=1))
def test_a_table_has_one_line_a_row_and_no_control_characters(rows):
    lines = table(rows, right=[1]).split("\n")
    assert len(lines) == len(rows)
    assert all(line.isprintable() for line in lines)


def test_columns_are_aligned():
    assert table([("item", "score"), ("m1", "4.5")], right=[1]) == "item  score\nm1      4.5"


@given(st.lists(st.floats(0, 1e6), max_size=200))
def test_a_curve_fits_and_keeps_to_its_range(values):
    drawn = curve(values)
    assert len(drawn) == min(WIDTH, len(values))
    assert set(drawn) <= set("▁▂▃▄▅▆▇█")


@given(st.floats(0, 1))
def test_a_meter_is_ten_wide(share):
    assert len(meter(share)) == 10
