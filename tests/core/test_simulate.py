"""The event queue against sorting all events that were ever asked for."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.core.errors import SettingsError
from treadle.core.simulate import Simulation, VirtualClock

TIMES = st.floats(0.0, 10.0)


@given(st.lists(st.tuples(TIMES, st.booleans())))
def test_events_come_by_time_then_in_the_order_they_were_asked_for(plan) -> None:
    simulation, seen = Simulation(), []
    events = [
        simulation.at(seconds, lambda i=i: seen.append((i, simulation.clock())))
        for i, (seconds, _) in enumerate(plan)
    ]
    for event, (_, is_cancelled) in zip(events, plan, strict=True):
        if is_cancelled:
            assert simulation.cancel(event)
            assert not simulation.cancel(event)
    kept = [(seconds, i) for i, (seconds, is_cancelled) in enumerate(plan) if not is_cancelled]
    assert len(simulation) == len(kept)
    assert simulation.run() == len(kept)
    assert seen == [(i, seconds) for seconds, i in sorted(kept)]


@given(st.lists(TIMES), TIMES)
def test_stopping_in_between_changes_nothing(times, until) -> None:
    whole, cut = Simulation(), Simulation()
    seen: dict[Simulation, list[tuple[int, float]]] = {whole: [], cut: []}
    for one, list_of in seen.items():
        for i, seconds in enumerate(times):
            one.at(seconds, lambda i=i, one=one, to=list_of: to.append((i, one.clock())))
    whole.run()
    cut.run(until)
    assert cut.clock() == until
    assert all(seconds <= until for _, seconds in seen[cut])
    cut.run()
    assert seen[cut] == seen[whole]


def test_an_action_may_take_time_and_ask_for_others() -> None:
    simulation, seen = Simulation(), []

    def step() -> None:
        seen.append(("step", simulation.clock()))
        simulation.clock.advance(2.5)
        if len(seen) < 4:
            simulation.after(0.0, step)

    simulation.at(1.0, step)
    simulation.at(2.0, lambda: seen.append(("arrival", simulation.clock())))
    simulation.run()
    assert seen == [("step", 1.0), ("arrival", 3.5), ("step", 3.5), ("step", 6.0)]


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_time_goes_forwards(seconds: float) -> None:
    simulation = Simulation()
    with pytest.raises(SettingsError, match="still to come"):
        simulation.at(seconds, lambda: None)
    with pytest.raises(SettingsError, match="at least 0"):
        VirtualClock().advance(seconds)


def test_streams_follow_from_seed_and_name_alone() -> None:
    one, other = Simulation(3), Simulation(3)
    other.stream("other").random(7)
    drawn = one.stream("arrivals").random(5)
    assert (drawn == other.stream("arrivals").random(5)).all()
    assert (drawn != Simulation(4).stream("arrivals").random(5)).any()
    assert (drawn != one.stream("lengths").random(5)).any()


def test_an_event_belongs_to_its_simulation() -> None:
    one, other = Simulation(), Simulation()
    event = one.at(1.0, lambda: None)
    other.at(1.0, lambda: None)
    assert not other.cancel(event)
    assert len(other) == 1
    with pytest.raises(SettingsError, match="until=nan"):
        one.run(math.nan)
