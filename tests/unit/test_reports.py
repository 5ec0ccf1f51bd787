"""Tables, numbers and figures as people see them."""

import pytest

from gateau.reports import COLOURS, colours, gigabytes, make_figure, markdown_table, save_figure, si


def test_columns_line_up_and_bars_are_escaped():
    lines = markdown_table(["name", "n"], [["a|b", 1], ["longer name", 22_222]]).splitlines()
    assert lines == [
        "| name        |     n |",
        "|-------------|------:|",
        "| a\\|b        |     1 |",
        "| longer name | 22222 |",
    ]
    assert markdown_table(["a", "b"], [["x", "y"]], numbers=[]).splitlines()[1] == "|-----|-----|"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.5, "0.5"), (999, "999"), (1234, "1.23 k"), (2.5e12, "2.5 T"), (1e18, "1 E")]
)
def test_numbers_carry_a_prefix(value, text):
    assert si(value) == text


def test_gigabytes_are_ten_to_the_ninth_bytes():
    assert [gigabytes(size) for size in (None, 5e7, 1e9, 1.25e12)] == ["–", "0.05", "1.0", "1,250.0"]


def test_a_figure_is_written_alike_each_time(tmp_path):
    for name in ("a.png", "b.png"):
        figure, axes = make_figure(1, 2, size=(4, 2))
        axes[0, 1].plot([1, 2], [3, 4], color=COLOURS[0])
        save_figure(figure, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_each_name_has_its_colour():
    chosen = colours([f"m{number}" for number in range(8)])
    assert len(set(chosen.values())) == 8
