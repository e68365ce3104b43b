"""The table of a run's states and events, without a run and without I/O."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_cached.runs import states
from stream_cached.runs.states import JOINABLE, TRANSITIONS, Effect, Event, RunState

S, E, F = RunState, Event, Effect

Transition = tuple[RunState, Event, RunState, tuple[Effect, ...]]

ALL: list[Transition] = [
    (state, event, after, effects)
    for state, row in TRANSITIONS.items()
    for event, (after, effects) in row.items()
]

#: Effects that let the readers reach the end.
ENDS = {F.END, F.COMMIT}

#: Effects that need I/O, and are carried out in order.
QUEUED = {F.END, F.COMMIT, F.DISCARD}

any_events = st.lists(st.sampled_from(list(Event)), max_size=20)


def advance(state: RunState, event: Event) -> tuple[RunState, tuple[Effect, ...]]:
    """Do what `Run.advance` does; an event without a column changes nothing."""
    return TRANSITIONS[state].get(event, (state, ()))


def reachable(start: RunState) -> set[RunState]:
    """Return the states that events can lead to, with the one they start from."""
    found, left = {start}, [start]
    while left:
        for after, _ in TRANSITIONS[left.pop()].values():
            if after not in found:
                found.add(after)
                left.append(after)
    return found


def paths(state: RunState, seen: frozenset[RunState] = frozenset()) -> Iterator[list[Transition]]:
    """Give each way from a state to CLOSED that changes the state at each step."""
    if state is S.CLOSED:
        yield []
    for event, (after, effects) in TRANSITIONS[state].items():
        if after is not state and after not in seen:
            for rest in paths(after, seen | {state}):
                yield [(state, event, after, effects), *rest]


PATHS = list(paths(S.CLAIMED))


def effects_of(path: list[Transition]) -> list[Effect]:
    return [effect for _, _, _, effects in path for effect in effects]


# -- the states -----------------------------------------------------------------------------------


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(RunState)


def test_every_state_can_be_reached() -> None:
    assert reachable(S.CLAIMED) == set(RunState)


@pytest.mark.parametrize("state", RunState)
def test_the_end_can_be_reached_from_every_state(state: RunState) -> None:
    assert S.CLOSED in reachable(state)
    if state is not S.CLOSED:
        assert TRANSITIONS[state][E.CLOSE] == (S.CLOSED, (F.UNLIST,))


def test_nothing_leads_out_of_the_end() -> None:
    assert TRANSITIONS[S.CLOSED] == {}


def test_other_requests_may_join_in_four_states() -> None:
    assert {S.CLAIMED, S.STREAMING, S.OUTGROWN, S.COMMITTING} == JOINABLE


def test_a_run_never_goes_back() -> None:
    """Nothing but an event that keeps the state leads to a state where the run was before."""
    for state, _, after, _ in ALL:
        assert after is state or state not in reachable(after)


# -- the events and the effects -------------------------------------------------------------------


@pytest.mark.parametrize("event", Event)
def test_every_event_changes_something_in_some_state(event: Event) -> None:
    assert [row for row in TRANSITIONS.values() if event in row]


@pytest.mark.parametrize("effect", Effect)
def test_every_effect_has_a_cause(effect: Effect) -> None:
    assert [effects for *_, effects in ALL if effect in effects]


def test_an_event_that_is_listed_changes_the_state_or_has_an_effect() -> None:
    assert [(state, event) for state, event, after, effects in ALL if after is state] == [
        (S.STREAMING, E.ABANDON),
        (S.STREAMING, E.RAISE),
        (S.OUTGROWN, E.ABANDON),
        (S.OUTGROWN, E.RAISE),
        (S.COMMITTING, E.RAISE),
        (S.ABORTED, E.BREAK),
    ]
    assert all(effects for state, _, after, effects in ALL if after is state)


def test_no_effect_happens_twice_at_one_event() -> None:
    assert all(len(effects) == len(set(effects)) for *_, effects in ALL)


def test_what_happens_at_once_comes_before_what_is_queued() -> None:
    for *_, effects in ALL:
        queued = [effect in QUEUED for effect in effects]
        assert queued == sorted(queued)


def test_a_run_that_can_no_longer_be_joined_leaves_the_registry() -> None:
    left = [transition for transition in ALL if transition[0] in JOINABLE]
    for state, event, after, effects in left:
        # The requests that wait for a plain value wait until the store has it.
        if after not in JOINABLE and after is not S.VALUE:
            assert F.UNLIST in effects, (state, event)
    assert [effects for _, _, after, effects in left if after is S.VALUE] == [()]
    assert all(F.UNLIST in effects for _, effects in TRANSITIONS[S.VALUE].values())


def test_requests_are_woken_once_there_is_a_response_to_join() -> None:
    assert [(s, e, after) for s, e, after, effects in ALL if F.WAKE in effects] == [
        (S.CLAIMED, E.ANSWER, S.STREAMING)
    ]


def test_readers_are_cut_where_the_body_turns_out_not_to_be_for_them() -> None:
    assert {(s, e) for s, e, _, effects in ALL if F.CUT in effects} == {
        (S.STREAMING, E.ABANDON),
        (S.STREAMING, E.UNSTORE),
        (S.OUTGROWN, E.ABANDON),
        (S.OUTGROWN, E.UNSTORE),
        # What is read after the last chunk counts, too.
        (S.COMMITTING, E.UNSTORE),
    }


def test_a_run_is_committed_where_its_body_is_complete_and_nowhere_else() -> None:
    for state, event, _, effects in ALL:
        assert (F.COMMIT in effects) == (event is E.COMPLETE), (state, event)


def test_a_source_is_stopped_where_a_stream_is_given_up_and_nowhere_else() -> None:
    for state, event, after, effects in ALL:
        assert (F.STOP_SOURCE in effects) == (event is E.ABORT), (state, event)
        assert (event is E.ABORT) <= (after is S.ABORTED)


def test_what_a_broken_source_left_is_deleted_after_its_readers_have_seen_the_end() -> None:
    for state, event, _, effects in ALL:
        is_broken = event is E.BREAK
        assert (effects[-2:] == (F.END, F.DISCARD)) == is_broken, (state, event)
        assert ({F.END, F.DISCARD} & {*effects} != set()) == is_broken, (state, event)


def test_a_stale_entry_is_left_alone_before_another_request_looks_for_a_run() -> None:
    for state, event, _, effects in ALL:
        if F.BACK_OFF in effects:
            assert effects.index(F.BACK_OFF) < effects.index(F.UNLIST), (state, event)


def test_a_visible_entry_stays() -> None:
    """From where the entry can be found, no event deletes it, and none breaks a stream off."""
    assert TRANSITIONS[S.VISIBLE] == {E.CLOSE: (S.CLOSED, (F.UNLIST,))}
    assert {after for _, event, after, _ in ALL if event is E.SHOW} == {S.VISIBLE}
    assert {state for state, event, *_ in ALL if event is E.SHOW} == {S.COMMITTING}


# -- from the claim to the end --------------------------------------------------------------------


def test_there_are_paths_to_the_end_through_every_state() -> None:
    assert {after for path in PATHS for _, _, after, _ in path} == set(RunState) - {S.CLAIMED}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: "-".join(e.name for _, e, _, _ in path))
def test_each_path_ends_the_stream_at_most_once(path: list[Transition]) -> None:
    effects, events = effects_of(path), [event for _, event, _, _ in path]
    assert effects.count(F.COMMIT) == events.count(E.COMPLETE) <= 1
    assert sum(effects.count(end) for end in ENDS) <= 1
    assert effects.count(F.END) == effects.count(F.DISCARD)
    assert F.UNLIST in effects
    # A body that is complete is committed, and never deleted as well.
    assert not {F.COMMIT, F.DISCARD} <= set(effects)


@given(any_events)
def test_whatever_happens_to_a_run_keeps_its_promises(events: list[Event]) -> None:
    state, effects, is_listed = S.CLAIMED, list[Effect](), True
    for event in [*events, E.CLOSE]:
        before = state
        state, caused = advance(state, event)
        effects.extend(caused)
        is_listed = is_listed and F.UNLIST not in caused
        assert before in JOINABLE or state not in JOINABLE
        assert state is not before or event in TRANSITIONS[before] or not caused
        if is_listed:
            assert state in JOINABLE | {S.VALUE}
    assert state is S.CLOSED
    assert not is_listed
    # An aborted source may report twice that it has stopped: its readers end once all the same.
    assert effects.count(F.COMMIT) <= 1
    assert effects.count(F.STOP_SOURCE) <= 1
    assert F.COMMIT not in effects or F.DISCARD not in effects
    assert advance(state, events[0] if events else E.ANSWER) == (S.CLOSED, ())


@given(any_events)
def test_the_effects_that_are_queued_follow_each_other_as_documented(events: list[Event]) -> None:
    state, queued = S.CLAIMED, list[Effect]()
    for event in events:
        state, caused = advance(state, event)
        queued.extend(effect for effect in caused if effect in QUEUED)
    assert queued == [F.COMMIT] or queued == [F.END, F.DISCARD] * (len(queued) // 2)


# -- documented -----------------------------------------------------------------------------------


def documented(cls: type[Enum]) -> dict[str, str]:
    """Return the members of an enumeration that a docstring follows, with that docstring."""
    (node,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for member, follows in pairwise(node.body):
        match member, follows:
            case ast.Assign(targets=[ast.Name(name)]), ast.Expr(ast.Constant(str(text))):
                found[name] = text
    return found


@pytest.mark.parametrize("cls", [RunState, Event, Effect])
def test_every_state_event_and_effect_is_documented(cls: type[Enum]) -> None:
    assert list(documented(cls)) == [member.name for member in cls]


def test_every_effect_is_said_to_happen_at_once_or_in_order() -> None:
    for name, text in documented(Effect).items():
        assert ("In order." in text) == (Effect[name] in QUEUED), name
        assert ("At once" in text) == (Effect[name] not in QUEUED), name


def test_the_module_names_the_states_that_can_be_joined() -> None:
    text = (states.__doc__ or "").replace("\n", " ")
    assert "join a run that is CLAIMED, STREAMING, OUTGROWN or COMMITTING." in text
