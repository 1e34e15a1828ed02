"""A seed decides everything beforehand, and ten of them reach the bars of the whole."""

import pytest

from tests.chaos.schedule import BUSES, BusName, Schedule, kills_of, points_of, schedule, seeds_of

ALL = [schedule(seed, bus) for bus in BUSES for seed in range(1, 11)]


def test_a_seed_repeats_its_schedule() -> None:
    assert [schedule(each.seed, each.bus) for each in ALL] == ALL
    assert len({str(each) for each in ALL}) == len(ALL)


@pytest.mark.parametrize("each", ALL, ids=lambda each: f"{each.bus}-{each.seed}")
def test_every_run_kills_every_process_at_every_point(each: Schedule) -> None:
    points = {fault.target for fault in each.faults if fault.kind == "point" and fault.detail["action"] == "kill"}
    assert points == set(points_of(each.bus))
    killed = {fault.target for fault in each.faults if fault.kind == "kill"}
    assert {"crm", "audit", "identity", "gateway", "witness", "postgres"} <= killed
    assert each.kills >= 12
    assert all(0 <= fault.at < each.seconds for fault in each.faults)
    assert [fault.at for fault in each.faults] == sorted(fault.at for fault in each.faults)
    assert len({fault.id for fault in each.faults}) == len(each.faults)


def test_ten_seeds_on_both_buses_reach_the_bars() -> None:
    assert kills_of(ALL) >= 230
    for bus in BUSES:
        paused = [fault for each in ALL if each.bus == bus for fault in each.faults if fault.seconds == 40]
        assert {fault.target.partition(".")[0] for fault in paused} == {"relay", "consumer"}
        assert sum(each.profile == "network" for each in ALL if each.bus == bus) >= 3
    assert sum(fault.kind == "outage" for each in ALL for fault in each.faults) >= 3


@pytest.mark.parametrize("bus", BUSES)
def test_three_seeds_in_a_row_show_every_profile(bus: BusName) -> None:
    for first in range(1, 9):
        assert len({schedule(seed, bus).profile for seed in range(first, first + 3)}) == 3


def test_a_schedule_reads_as_a_list() -> None:
    lines = str(schedule(7, "kafka")).splitlines()
    assert lines[0] == "seed 7 on kafka: pause, 50 s of load"
    assert len(lines) == 1 + len(schedule(7, "kafka").faults)


def test_seeds_are_named_by_numbers_and_ranges() -> None:
    assert seeds_of("7") == [7]
    assert seeds_of("1-3,9,12-13") == [1, 2, 3, 9, 12, 13]
    for wrong in ("", "x", "3-1"):
        with pytest.raises(ValueError, match=r".*"):
            seeds_of(wrong)
