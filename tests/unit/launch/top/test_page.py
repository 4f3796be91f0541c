"""The page of `prolong top`, from statuses as a buffer sends them."""

from __future__ import annotations

import io
import math

import msgspec
import pytest
from prolong.common.messages import LearnerPace, Status
from prolong.launch.top.keyboard import split_keys
from prolong.launch.top.page import KEYS, ORDERS, Shown, View, top_page
from prolong.launch.top.speeds import StatusWindow, actor_speed, live_roofs, pool_speeds
from rich.console import Console

LEDGER = {"issued": 0, "leased": 12, "stored": 37, "batched": 64, "trained": 2368, "filtered": 101, "stale": 0, "failed": 1}
PACE = LearnerPace(batch_groups=64, waits_s=3.2, num_steps=10, step_s=2.0, wait_s=1.0, held_s=0.1, ess=0.97, kl=0.002)


def actor(busy_s: float, idle_s: float, weights_s: float, tokens: float, **more: float | str) -> dict[str, float | str]:
    about: dict[str, float | str] = {"role": "actor", "state": "ready", "silence_s": 0.2, "lag": 1.0, "rollouts": 48.0}
    numbers: dict[str, float | str] = {"busy_s": busy_s, "idle_s": idle_s, "weights_s": weights_s, "engine_tokens": tokens}
    return about | {"room": 64.0} | numbers | more


def status(version: int, **peers: dict[str, float | str]) -> Status:
    return Status(
        run="mine",
        generation=1,
        version=version,
        steps=80,
        ledger=LEDGER | {"total": sum(LEDGER.values())},
        balanced=True,
        peers={"learner": {"role": "learner", "state": "connected", "silence_s": 0.1}, **peers},
        counters={},
        validation=[],
        eta=2,
        num_peers=1 + len(peers),
        pace=PACE,
    )


def window_of(*statuses: tuple[float, Status]) -> StatusWindow:
    window = StatusWindow()
    for at_s, told in statuses:
        window.add(at_s, told)
    return window


def drawn(shown: Shown, view: View, *, width: int = 80, height: int = 40) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    console.print(top_page(shown, view, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def shown(window: StatusWindow, **more: object) -> Shown:
    newest = window.newest
    assert newest is not None
    known = {"status": newest.status, "actors": window.actors(), "late_weights": window.late_weights(), "record": {}}
    return Shown(**(known | more))  # pyright: ignore[reportArgumentType]


def test_the_page_says_how_many_lines_of_the_metrics_are_left_out() -> None:
    window = window_of((0.0, status(1, a=actor(1.0, 0.0, 0.0, 1.0))))
    assert not any("broken" in line for line in drawn(shown(window), View()))
    assert "  broken lines in metrics.jsonl: 2" in drawn(shown(window, num_broken=2), View(), width=200)[0]


def test_speeds_and_shares_are_those_of_the_last_seconds_not_of_the_whole_life() -> None:
    before, after = actor(100.0, 0.0, 0.0, 1000.0), actor(104.0, 5.0, 1.0, 3000.0)
    window = window_of((0.0, status(1, a=before)), (10.0, status(6, a=after)))
    [found] = window.actors()
    assert (found.busy, found.idle, found.updating, found.tokens_per_s) == pytest.approx((0.4, 0.5, 0.1, 200.0))


def test_an_actor_that_started_again_counts_from_its_start() -> None:
    found = actor_speed("a", actor(1.0, 3.0, 0.0, 40.0), actor(100.0, 0.0, 0.0, 9000.0))
    assert (found.busy, found.tokens_per_s) == pytest.approx((0.25, 10.0))


def test_the_window_forgets_what_is_older_than_ten_seconds_and_another_generation() -> None:
    window = window_of(*((float(at), status(at, a=actor(at, 0.0, 0.0, at * at))) for at in range(40)))
    # from 29 to 39 seconds
    assert window.actors()[0].tokens_per_s == pytest.approx((39**2 - 29**2) / 10)
    window.add(41.0, msgspec.structs.replace(status(2, a=actor(1.0, 0.0, 0.0, 7.0)), generation=2))
    assert window.actors()[0].tokens_per_s == pytest.approx(7.0)


@pytest.mark.parametrize(
    ("told", "waits_for"),
    [
        (actor(8.0, 1.0, 1.0, 0.0), ""),
        (actor(1.0, 9.0, 0.0, 0.0), "tickets 90%"),
        (actor(1.0, 9.0, 0.0, 0.0, verify_exposed_s=8.0), "verdicts 80%"),
        (actor(5.0, 1.0, 4.0, 0.0), "weights 40%"),
        (actor(0.0, 0.0, 0.0, 0.0, state="waits for weights"), "weights"),
        (actor(0.0, 0.0, 0.0, 0.0, state="cordoned"), "cordoned"),
    ],
)
def test_what_an_actor_waits_for_is_named(told: dict[str, float | str], waits_for: str) -> None:
    assert actor_speed("a", told, {}).waits_for == waits_for


@pytest.mark.parametrize(
    ("wait_s", "held_s", "told", "binds"),
    [
        (0.1, 0.0, actor(1.0, 9.0, 0.0, 0.0), "learner"),
        (1.0, 0.9, actor(1.0, 9.0, 0.0, 0.0), "staleness"),
        (1.0, 0.1, actor(9.0, 1.0, 0.0, 0.0), "actors"),
        (1.0, 0.1, actor(3.0, 7.0, 0.0, 0.0, verify_exposed_s=6.0), "verifiers"),
        (1.0, 0.1, actor(3.0, 1.0, 6.0, 0.0), "weights"),
    ],
)
def test_the_roof_that_binds_is_named(wait_s: float, held_s: float, told: dict[str, float | str], binds: str) -> None:
    pace = msgspec.structs.replace(PACE, wait_s=wait_s, held_s=held_s)
    assert live_roofs(msgspec.structs.replace(status(1), pace=pace), [actor_speed("a", told, {})]).binds == binds


def test_weights_bind_while_the_learner_waits_and_no_actor_has_its_newest_ones_yet() -> None:
    behind, current = actor(1.0, 9.0, 0.0, 0.0), actor(1.0, 9.0, 0.0, 0.0, lag=0.0)
    held = msgspec.structs.replace(PACE, held_s=0.9)
    trains = msgspec.structs.replace(held, waits_s=-1.0)
    told = [(held, behind), (held, behind), (held, current), (trains, current), (trains, current)]
    statuses = [(float(at), msgspec.structs.replace(status(7, a=peer), pace=pace)) for at, (pace, peer) in enumerate(told)]
    window = window_of(*statuses)
    assert window.late_weights() == pytest.approx(2 / 3)
    assert "[weights 33%]" in "\n".join(drawn(shown(window), View()))
    # of two actors one can go on
    other = msgspec.structs.replace(status(7, a=behind, b=current), pace=held)
    assert window_of((0.0, other)).late_weights() == 0.0


def test_the_actors_of_a_pool_are_added_up() -> None:
    told = [actor(8.0, 2.0, 0.0, 100.0, pool="big"), actor(4.0, 6.0, 0.0, 50.0, pool="big", lag=3.0), actor(1.0, 0.0, 0.0, 1.0)]
    pools = pool_speeds(actor_speed(f"a{i}", each, {}) for i, each in enumerate(told))
    assert [(pool.name, pool.num_actors, pool.lag) for pool in pools] == [("", 1, 1.0), ("big", 2, 3.0)]
    assert (pools[1].tokens_per_s, pools[1].busy, pools[1].room) == pytest.approx((15.0, 0.6, 128.0))


def test_the_page_fits_into_eighty_columns_and_its_height_and_says_what_matters() -> None:
    many = {f"actor-{i:02d}": actor(100.0 - i, i, 0.0, 1e5 * i, pool="big" if i % 2 else "") for i in range(60)}
    many["far-away-actor-with-a-long-name-in-another-country"] = actor(1.0, 9.0, 0.0, 9.0, silence_s=12.0)
    record = {"reward/mean": 0.5, "reward/math": 0.25, "reward/math/sum": 0.25, "buffer/staleness_mean": 1.25}
    lines = drawn(shown(window_of((0.0, status(7, **many))), record=record), View(), height=24)
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 24
    page = "\n".join(lines)
    for said in (
        "version 7 of 80",
        "waits for 3.2 s",
        "37 of 64 groups stored",
        "reward  .50   math .25",
        "staleness 1.25",
        "more (j k)",
        KEYS,
    ):
        assert said in page
    # `--once` reads no key
    assert KEYS not in "\n".join(drawn(shown(window_of((0.0, status(7, **many)))), View(keyed=False), height=24))
    # all of it, where there is room
    assert "silent 12 s" in "\n".join(drawn(shown(window_of((0.0, status(7, **many)))), View(), height=90))


def test_keys_choose_the_order_scroll_pause_and_leave() -> None:
    told = {"slow": actor(1.0, 9.0, 0.0, 10.0), "fast": actor(9.0, 1.0, 0.0, 1e4)}
    page, view = shown(window_of((0.0, status(7, **told)))), View()
    assert [line.split()[0] for line in drawn(page, view) if line.startswith((" fast", " slow", "fast", "slow"))] == [
        "fast",
        "slow",
    ]
    assert view.press("s")
    assert view.press("r")
    assert (view.order, list(ORDERS)[1]) == ("speed", "speed")
    names = [line.split()[0] for line in drawn(page, view) if line.strip().startswith(("fast", "slow"))]
    assert names == ["slow", "fast"]
    assert view.press("j")
    assert "slow" not in "\n".join(drawn(page, view))
    assert view.press("p")
    assert "paused" in drawn(page, view)[0]
    assert view.press("o")
    assert "(no pool) x2" in "\n".join(drawn(page, view))
    assert not view.press("q")
    assert split_keys("\x1b[A\x1b[Bq") == ["k", "j", "q"]
    assert split_keys("\x1b[5~") == []


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e308, -1e308])
def test_no_number_of_an_actor_or_a_learner_ends_the_page(number: float) -> None:
    """Clients report what they like, and the page is drawn from it."""
    keys = ("busy_s", "idle_s", "weights_s", "engine_tokens", "verify_exposed_s", "lag", "rollouts", "room", "silence_s")
    pace = LearnerPace(batch_groups=64, waits_s=number, num_steps=10, step_s=number, wait_s=number, held_s=number)
    told = [actor(1.0, 1.0, 0.0, 5.0) | dict.fromkeys(keys, value) for value in (1.0, number)]
    statuses = [(float(at), msgspec.structs.replace(status(at, a=peer), pace=pace)) for at, peer in enumerate(told)]
    record = {"reward/mean": number, "reward/math": number, "buffer/staleness_max": number, "policy/ess": number}
    for order in ORDERS:
        lines = drawn(shown(window_of(*statuses), record=record), View(order=order))
        assert max(map(len, lines)) <= 80
        assert any(line.strip().startswith("a ") for line in lines)


def test_a_name_is_text_and_not_markup() -> None:
    named = msgspec.structs.replace(status(7, **{"[/red] [bold]x": actor(1.0, 0.0, 0.0, 5.0, pool="[/]")}), run="[/] mine")
    page = shown(window_of((0.0, named)))
    assert "[/red] [bold]x" in "\n".join(drawn(page, View()))
    assert "[/] " in "\n".join(drawn(page, View(by_pool=True)))
    assert "[/] mine" in drawn(page, View())[0]


def test_a_buffer_that_does_not_answer_is_said_at_the_top() -> None:
    assert "no answer for 9 s" in drawn(shown(window_of((0.0, status(7))), silent_s=9.0), View())[0]
