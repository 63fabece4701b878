"""Tables on the screen: aligned, whole, and without anything that steers a terminal."""

from __future__ import annotations

import subprocess
import sys

from nas.cli.output import Column, emit, row_text, say, table_text
from nas.display import printable

COLUMNS = (Column("name"), Column("ms", right=True), Column("note"))


def test_columns_stand_below_one_another_and_rows_end_with_their_text():
    text = table_text(COLUMNS, [("a", "1.25", ""), ("longer", "10.5", "of two")])
    assert text.splitlines() == ["name      ms  note", "a       1.25", "longer  10.5  of two"]


def test_no_cell_is_cut_or_wrapped():
    note = "word " * 200 + "end"
    (line,) = table_text(COLUMNS, [("a", "1", note)], header=False).splitlines()
    assert line.endswith(note)


def test_cells_are_text_and_no_markup():
    assert "[red]x[/red] :smile:" in table_text(COLUMNS, [("[red]x[/red] :smile:", "1", "")])


def test_rows_printed_one_by_one_stand_below_their_titles():
    columns = [
        Column("step", right=True, width=4),
        Column("move", width=12),
        Column("ms", right=True, width=6),
    ]
    title = row_text(columns, [column.title for column in columns])
    row = row_text(columns, ("7", "narrow", "1.2500"))
    assert (title, row) == ("step  move              ms", "   7  narrow        1.2500")


def test_control_characters_reach_no_screen(capsys):
    name = "a\x1b[31mred\x07\u202etxt"
    emit({}, table_text(COLUMNS, [(name + "\n", "1", "")]) + "\n" + name)
    say(name)
    out, err = capsys.readouterr()
    assert r"a\x1b[31mred\x07\u202etxt" in err and out.count(r"\x1b[31m") == 2 and r"txt\n" in out
    assert all(letter == "\n" or letter.isprintable() for letter in out + err)


def test_names_in_errors_are_escaped(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "nas", "search", "--space", "x\x1b[2J", "--device", "y"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 2 and r"x\x1b[2J" in result.stderr and "\x1b" not in result.stderr
    assert result.stderr.count("\n") == 1


def test_letters_of_all_languages_stay():
    assert printable("Größe 模型 é ± …") == "Größe 模型 é ± …"
