"""Who is in the next step: never too many rows, one key, and nobody waits for ever."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sangsang.services.diffusion.picking import RoundRobin


@dataclass
class Waiting:
    name: int
    key: str
    row_count: int
    turn: int = 0


def crowd(row_limit=8):
    one = st.tuples(st.sampled_from("abc"), st.integers(1, min(3, row_limit)))
    return st.lists(one, min_size=1, max_size=20).map(
        lambda entries: [Waiting(name, *entry) for name, entry in enumerate(entries)]
    )


@given(crowd(), st.integers(3, 8), st.integers(1, 30))
def test_steps_are_full_fair_and_of_one_key(waiting, row_limit, newcomers):
    picker = RoundRobin(row_limit)
    patient = {one.name: 0 for one in waiting}
    for turn in range(1, 60):
        if turn <= newcomers:
            waiting.append(Waiting(1000 + turn, "a", 1, turn - 1))
        chosen = picker.pick(waiting)
        assert chosen
        assert len({one.key for one in chosen}) == 1
        rows = sum(one.row_count for one in chosen)
        assert rows <= row_limit
        left_out = [w for w in waiting if w.key == chosen[0].key and w not in chosen]
        assert all(rows + one.row_count > row_limit for one in left_out)
        for one in chosen:
            one.turn = turn
            patient.pop(one.name, None)
    # 20 jobs of up to 3 rows, 30 newcomers: all had a turn long before.
    assert not patient


def test_the_longest_waiting_comes_first():
    waiting = [Waiting(0, "a", 1, 5), Waiting(1, "b", 1, 3), Waiting(2, "b", 1, 4)]
    assert [one.name for one in RoundRobin(8).pick(waiting)] == [1, 2]


def test_among_equals_the_first_to_come():
    waiting = [Waiting(name, "a", 2) for name in range(5)]
    assert [one.name for one in RoundRobin(4).pick(waiting)] == [0, 1]


@pytest.mark.parametrize(("first", "expected"), [(2, [0, 2]), (3, [0])])
def test_rows_of_a_job_never_part(first, expected):
    waiting = [Waiting(0, "a", first), Waiting(1, "a", 2), Waiting(2, "a", 1)]
    assert [one.name for one in RoundRobin(3).pick(waiting)] == expected
