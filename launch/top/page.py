"""The page of `prolong top`, for 80 columns or more: what the run does, what holds it up, and every actor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ...common.messages import Status
from ...common.types import TicketState
from ..summary import format_duration, format_score
from .speeds import LiveRoofs, WatchedActor, live_roofs, pool_speeds

WIDTH = 80
KEYS = "q quit   s order   r reverse   j k scroll   p pause   o pools or actors"
ORDERS: dict[str, Callable[[WatchedActor], float | str]] = {
    "name": lambda actor: actor.name,
    "speed": lambda actor: -actor.tokens_per_s,
    "idle": lambda actor: -actor.idle,
    "behind": lambda actor: float("-inf") if actor.lag is None else -actor.lag,
    "silent": lambda actor: -actor.silence_s,
}
# of a step's record -> how it is called and written
LAST_STEP = (
    ("buffer/staleness_mean", "staleness", "{:.2f}"),
    ("buffer/staleness_max", "at most", "{:.0f}"),
    ("rollout/tokens_mean", "tokens", "{:,.0f}"),
    ("policy/ess", "ess", "{:.3f}"),
    ("policy/kl_behaviour", "kl", "{:.4f}"),
)


@dataclass(slots=True)
class View:
    """What the keys have chosen."""

    order: str = "name"
    reverse: bool = False
    first: int = 0  # index of the first actor that is shown
    paused: bool = False
    by_pool: bool = False  # pools instead of actors
    keyed: bool = True  # whether anybody reads keys, which the last line names

    def press(self, key: str) -> bool:
        """Act on a key; False: leave."""
        names = list(ORDERS)
        match key:
            case "q" | "Q" | "\x03" | "\x04":
                return False
            case "s":
                self.order = names[(names.index(self.order) + 1) % len(names)]
            case "r":
                self.reverse = not self.reverse
            case "p":
                self.paused = not self.paused
            case "o":
                self.by_pool, self.first = not self.by_pool, 0
            case "j":
                self.first += 1
            case "k":
                self.first = max(0, self.first - 1)
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """All that a page is drawn of."""

    status: Status
    actors: Sequence[WatchedActor]
    late_weights: float  # StatusWindow.late_weights
    record: Mapping[str, float]  # the newest step's, where the run folder is on this machine
    silent_s: float = 0.0  # for how long the buffer has not answered
    num_broken: int = 0  # lines of metrics.jsonl that are left out


def top_page(shown: Shown, view: View, height: int) -> RenderableType:
    """The page, at most `height` lines of it where that is enough for one actor."""
    rows = Table.grid(padding=(0, 1))
    rows.add_column(style="bold", no_wrap=True, min_width=7)
    rows.add_column(no_wrap=True, overflow="ellipsis")
    for label, text in _rows(shown):
        rows.add_row(label, text)
    # header, second line of the tickets, keys, head of the table, and its line that says how many are not shown
    left = max(1, height - rows.row_count - 5)
    keys = [Text(KEYS, style="dim")] if view.keyed else []
    return Group(_header(shown, view), rows, _clients(shown, view, left), *keys)


def _header(shown: Shown, view: View) -> Text:
    status = shown.status
    text = Text("prolong top ", style="bold", no_wrap=True, overflow="ellipsis")
    text.append(f"{status.run}  version {status.version} of {status.steps}  generation {status.generation}", style="default")
    if shown.silent_s > 3.0:
        text.append(f"  no answer for {shown.silent_s:.0f} s", style="bold red")
    if shown.num_broken:
        text.append(f"  broken lines in metrics.jsonl: {shown.num_broken}", style="bold yellow")
    return text.append("  paused", style="bold yellow") if view.paused else text


def _rows(shown: Shown) -> list[tuple[str, RenderableType]]:
    status = shown.status
    rows: list[tuple[str, RenderableType]] = [("learner", _learner(shown)), ("batch", _batch(status))]
    if shown.record:
        rows += [("reward", _rewards(shown.record)), ("last", _last_step(shown.record))]
    rows += [
        ("roofs", _roofs(live_roofs(status, list(shown.actors), shown.late_weights))),
        ("tickets", _ledger(status)),
        ("actors", _actors(shown)),
    ]
    return rows


def _learner(shown: Shown) -> Text:
    status, pace = shown.status, shown.status.pace
    if not any(peer.get("role") == "learner" for peer in status.peers.values()):
        return Text("not connected", style="yellow")
    if pace is None:
        return Text("connected")
    doing = f"waits for {pace.waits_s:.1f} s" if pace.waits_s >= 0 else "trains"
    if not pace.num_steps or pace.step_s <= 0:
        return Text(doing)
    text = Text(f"{doing:<17}", style="yellow" if pace.waits_s >= 0 else "green")
    text.append(f" step {pace.step_s:.2f} s, {pace.wait_s / pace.step_s:.0%} of it waiting", style="default")
    left_s = (status.steps - status.version) * pace.step_s
    return text.append(f"   {format_duration(left_s)} left" if left_s > 0 else "   the last step is made", style="dim")


def _batch(status: Status) -> Text:
    """How much of the next batch there is, and what it waits for."""
    stored, pace = status.ledger.get(TicketState.stored.value, 0), status.pace
    of = f" of {pace.batch_groups}" if pace is not None else ""
    text = Text(f"{stored}{of} groups stored   eta {status.eta}")
    if status.eta_why:
        text.append(f" ({status.eta_why})", style="dim")
    return text.append(f"   {status.waits_for}", style="yellow") if status.waits_for else text


def _rewards(record: Mapping[str, float]) -> Text:
    """Mean rewards of the newest step, of all rollouts and by domain."""
    domains = {key.split("/")[1]: value for key, value in record.items() if key.startswith("reward/") and key.count("/") == 1}
    text = Text(format_score(domains.pop("mean", None)), style="bold cyan")
    for domain, value in sorted(domains.items()):
        text.append(f"   {domain} {format_score(value)}", style="default")
    return text


def _last_step(record: Mapping[str, float]) -> Text:
    """A few numbers of the newest step."""
    return Text("   ".join(f"{name} {form.format(record[key])}" for key, name, form in LAST_STEP if key in record))


def _roofs(roofs: LiveRoofs) -> Text:
    text = Text()
    for field in fields(roofs):
        if field.name == "binds":
            continue
        binds, share = field.name == roofs.binds, getattr(roofs, field.name)
        told = f"{field.name} {share:.0%}"
        text.append(f"[{told}]" if binds else told, style="bold red" if binds else "default").append("  ")
    return text


def _ledger(status: Status) -> Text:
    text = Text()
    for state in TicketState:
        if state is TicketState.filtered:
            text.append("\n")
        text.append(f"{state.value} ", style="dim").append(f"{status.ledger.get(state.value, 0):,}  ")
    return text if status.balanced else text.append("NOT BALANCED", style="bold red")


def _actors(shown: Shown) -> Text:
    actors, num = shown.actors, len(shown.actors)
    tokens = sum(actor.tokens_per_s for actor in actors)
    relays = sum(peer.get("role") == "relay" for peer in shown.status.peers.values())
    text = Text(f"{num} actor{'s' * (num != 1)}   {tokens:,.0f} tokens/s")
    if relays:
        text.append(f"   {relays} relay{'s' * (relays != 1)}")
    hidden = shown.status.num_peers - len(shown.status.peers)
    return text.append(f"   {hidden:,} more clients are not shown", style="dim") if hidden > 0 else text


def _clients(shown: Shown, view: View, num_rows: int) -> Table:
    """The table of actors or pools, `num_rows` of them from the one that was scrolled to."""
    told = pool_speeds(shown.actors) if view.by_pool else list(shown.actors)
    told.sort(key=ORDERS[view.order], reverse=view.reverse)  # pyright: ignore[reportArgumentType, reportCallIssue]
    view.first = min(view.first, max(0, len(told) - 1))
    lines = told[view.first : view.first + num_rows]
    table = Table(box=None, pad_edge=False, padding=(0, 1), width=WIDTH, header_style="reverse")
    named = f"{'pool' if view.by_pool else 'actor'} (by {view.order})"
    table.add_column(named, no_wrap=True, ratio=1, overflow="ellipsis")
    for column in ("rollouts", "tok/s", "busy", "wts", "lag"):
        # an absurd number of one actor leaves room for the names
        table.add_column(column, justify="right", no_wrap=True, max_width=11, overflow="ellipsis")
    table.add_column("waits for", no_wrap=True, width=15, overflow="ellipsis")
    for actor in lines:
        table.add_row(*_actor_cells(actor))
    hidden = len(told) - len(lines)
    if hidden > 0:
        table.add_row(Text(f"... {hidden} more (j k)", style="dim"))
    return table


def _actor_cells(actor: WatchedActor) -> list[RenderableType]:
    silent = actor.silence_s > 5.0
    waits_for = f"silent {actor.silence_s:.0f} s" if silent else actor.waits_for
    style = "red" if silent else "yellow" if waits_for else "default"
    name = f"{actor.name or '(no pool)'} x{actor.num_actors}" if actor.num_actors > 1 else actor.name or "(no pool)"
    cells = [
        f"{actor.rollouts:.0f}/{actor.room:.0f}",
        f"{actor.tokens_per_s:,.0f}",
        f"{actor.busy:.0%}",
        f"{actor.updating:.0%}",
        "-" if actor.lag is None else f"{actor.lag:.0f}",
    ]
    # a string would be read as markup, and an actor may have any name
    return [Text(name), *cells, Text(waits_for, style=style)]
