"""The figures of deploy/growth.md are those that the commands beside them print.

Run: pytest tests/repo/test_growth.py
"""

import re

import growth
import pytest

PAGE = growth.PAGE.read_text("utf-8")
COMMANDS = re.findall(r"^sangsang simulate .*$", PAGE, re.MULTILINE)
LOADS = growth.loads_of(PAGE)


def table(name: str) -> str:
    [found] = re.findall(
        rf"<!-- {name}: written by .*?-->\n\n(.*?)\n\n<!-- {name}: end", PAGE, re.S
    )
    return found


def row_with(share: float, load: int) -> growth.Row:
    tier = {"goodput_per_s": share * 10, "requests": 10}
    return growth.Row(1, "Free", load, {"makespan_s": 1.0, "tiers": {"free": tier}})


def test_every_command_is_the_program_s_own():
    asked = {(devices, mix) for devices in growth.DEVICES for mix in growth.MIXES}
    assert set(LOADS) == asked
    assert [growth.command(*where, load) for where, load in in_order().items()] == COMMANDS


def in_order() -> dict[tuple[int, str], int]:
    wanted = [(devices, mix) for devices in growth.DEVICES for mix in growth.MIXES]
    return {where: LOADS[where] for where in wanted}


# Those that take a second or two.
@pytest.mark.parametrize("devices", [1, 2])
def test_a_command_prints_what_the_page_says(devices):
    row = growth.play(devices, "Free", LOADS[devices, "Free"])
    assert growth.least_in_time(row) >= growth.IN_TIME
    if devices == 1:
        assert f"| Free | {row.in_time_per_s:.2f} | " in table("one")
    assert f"| {devices} | {row.in_time_per_s:.1f} ({row.load / 100:.2f}) | " in table("more")


def test_the_most_that_is_in_time_is_found():
    found = growth.most(1, "Free", lambda _, __, load: row_with(0.95 - (load - 70) / 500, load))
    assert found.load == 70


def test_where_nothing_is_in_time_it_is_said():
    with pytest.raises(SystemExit, match="not even 30 % of the load"):
        growth.most(1, "Free", lambda _, __, load: row_with(0.5, load))


def test_a_page_without_its_places_is_refused():
    with pytest.raises(SystemExit, match="no place for one"):
        growth.between("nothing", "one", "a table")
