"""Dominance keeps one of each amount that no other one beats, in the order of the first row."""

from __future__ import annotations

import numpy as np
import pytest

from nas.search.engines.condensed import best_of_groups
from nas.search.engines.label_setting import undominated


def pareto(columns):
    """Every column that no other one beats, by a look at all pairs."""
    return {
        one
        for one in columns
        if not any(
            other != one and all(x <= y for x, y in zip(other, one, strict=True))
            for other in columns
        )
    }


@pytest.mark.parametrize("rows", [2, 3, 4, 5])
@pytest.mark.parametrize("most", [3, 40, 10**9])
def test_equal_to_a_look_at_all_pairs(rows, most):
    rng = np.random.default_rng(0)
    for count in (0, 1, 5, 50, 600):
        amounts = rng.integers(0, most, (rows, count))
        kept = undominated(amounts).tolist()
        columns = [tuple(amounts[:, number].tolist()) for number in kept]
        assert len(columns) == len(set(columns)) and set(columns) == pareto(
            set(map(tuple, amounts.T.tolist()))
        )
        assert [column[0] for column in columns] == sorted(column[0] for column in columns)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_in_groups_the_same(rows):
    rng = np.random.default_rng(1)
    for count in (0, 1, 30, 400):
        amounts = rng.integers(0, 9, (rows, count))
        keys = rng.integers(0, 7, count)
        kept = best_of_groups(keys, amounts).tolist()
        found = [(int(keys[number]), tuple(amounts[:, number].tolist())) for number in kept]
        expected = {
            (key, column)
            for key in set(keys.tolist())
            for column in pareto(set(map(tuple, amounts[:, keys == key].T.tolist())))
        }
        assert len(found) == len(set(found)) and set(found) == expected
