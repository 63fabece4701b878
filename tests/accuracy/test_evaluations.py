"""The journal of evaluated members: standard errors, journals of older versions, figures that are
not numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from nas.accuracy.evaluations import ROWS, Evaluated, Evaluations
from nas.errors import InputError
from nas.space import Architecture, Space
from nas.tasks.classify import accuracy_error


class Source:
    """Gives every member 80 %, on 50 images."""

    words = "made up"

    def __init__(self, **of: object) -> None:
        self.of = of or {"images": 50}

    def evaluate(
        self, base: Architecture, members: Sequence[Architecture]
    ) -> Iterator[tuple[Architecture, Evaluated]]:
        for member in members:
            yield member, Evaluated(80.0, 0.5, 1.25)


@pytest.fixture
def member(small_space: Callable[..., Space]) -> Architecture:
    return small_space().largest()


def test_standard_errors_are_kept(member: Architecture, tmp_path: Path) -> None:
    Evaluations(Source(), tmp_path).of(member, [member])
    (found,) = Evaluations(Source(), tmp_path).of(member, [member]).values()
    assert found == Evaluated(80.0, 0.5, 1.25)


def test_a_journal_of_an_older_version_loads_and_grows(
    member: Architecture, tmp_path: Path
) -> None:
    Evaluations(Source(), tmp_path).of(member, [member])
    rows = tmp_path / ROWS
    old = [line.rsplit(",", 1)[0] for line in rows.read_text().splitlines()]
    rows.write_text("\n".join(old) + "\n")
    evaluations = Evaluations(Source(), tmp_path)
    (found,) = evaluations.of(member, [member]).values()
    assert found == Evaluated(80.0, 0.5, accuracy_error(80.0, 50))
    other = member.at(96)
    evaluations.of(other, [other])
    again = Evaluations(Source(), tmp_path)
    assert len(again) == 2 and len({line.count(",") for line in rows.read_text().splitlines()}) == 1
    assert again.of(other, [other])[other].standard_error == 1.25


def test_without_a_number_of_images_an_older_journal_has_no_standard_errors(
    member: Architecture, tmp_path: Path
) -> None:
    Evaluations(Source(name="x"), tmp_path).of(member, [member])
    rows = tmp_path / ROWS
    rows.write_text(
        "\n".join(line.rsplit(",", 1)[0] for line in rows.read_text().splitlines()) + "\n"
    )
    for _ in range(2):  # the second time from the journal that the first one upgraded
        (found,) = Evaluations(Source(name="x"), tmp_path).of(member, [member]).values()
        assert found == Evaluated(80.0, 0.5, None)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("abc,nan,0.5,8,1,1.0", r"accuracy: 'nan' is not a finite number"),
        ("abc,101,0.5,8,1,1.0", r"accuracy: 101 is not a percentage, expected 0 to 100"),
        ("abc,-1,0.5,8,1,1.0", r"accuracy: -1 is not a percentage"),
        ("abc,80,inf,8,1,1.0", r"loss: 'inf' is not a finite number"),
        ("abc,80,0.5,8,1,nan", r"standard_error: 'nan' is not a finite number"),
        ("abc,80,0.5,8,1,-1.0", r"standard_error: -1 is not above 0"),
        ("abc,80,0.5,8,1,0.0", r"standard_error: 0 is not above 0"),
        (",80,0.5,8,1,1.0", r"member: is missing"),
        ("abc", r"accuracy: '' is not a finite number"),
    ],
)
def test_figures_that_make_no_sense_are_refused_by_line_and_column(
    member: Architecture, tmp_path: Path, row: str, reason: str
) -> None:
    Evaluations(Source(), tmp_path).of(member, [member])
    with (tmp_path / ROWS).open("a") as file:
        file.write(row + "\n")
    with pytest.raises(InputError, match=rf"evaluations\.csv:3: .*{reason}") as error:
        Evaluations(Source(), tmp_path)
    assert "Fix: remove the line" in str(error.value) and "\n" not in str(error.value)
