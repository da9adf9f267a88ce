"""What the demo shows at its end: who answered, what failed and how it was absorbed, in tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from modelmesh.interfaces.provider import AttemptRecord
from modelmesh.mesh import ModelMesh
from modelmesh_plugins.commands.tables import print_whole
from modelmesh_plugins.demo.run import POOL, Outcome

_SAID = {
    "quota": "quota used up",
    "rate_limit": "rate limited",
    "server_error": "server error",
    "network": "connection broken",
    "timeout": "went silent",
    "malformed": "answer is no JSON",
    "auth": "refused the key",
}


def report(mesh: ModelMesh, outcomes: Sequence[Outcome]) -> Group:
    """Return all tables and the verdict."""
    met = failures(outcomes)
    return Group("", answers(mesh, outcomes), "", *((met, "") if met.row_count else ()), verdict(outcomes))


def answers(mesh: ModelMesh, outcomes: Sequence[Outcome]) -> Table:
    """Return the table of models: what each answered, how fast, at what price, and how it stands now."""
    table = _table("Who answered", "model", ("answers", "right"), ("failed", "right"))
    for name in ("p50 ms", "p95 ms", "tokens", "cost $"):
        table.add_column(name, justify="right")
    table.add_column("now", no_wrap=True, min_width=7)
    answered = Counter(outcome.attempts[-1].model_id for outcome in outcomes if outcome.is_whole and outcome.attempts)
    statistics = mesh.get_statistics()
    for member in mesh.get_router().get_pool(POOL).members.values():
        try:
            figures = statistics.model(member.model_id)
        except KeyError:  # it was never called
            continue
        table.add_row(
            member.model_id,
            str(answered[member.model_id]),
            str(figures.failed_requests),
            f"{figures.p50_latency_ms:.0f}",
            f"{figures.p95_latency_ms:.0f}",
            f"{figures.total_tokens_in + figures.total_tokens_out:,}",
            f"{figures.total_cost:.4f}",
            member.status,
        )
    return table


def failures(outcomes: Iterable[Outcome]) -> Table:
    """Return the table of failures and of what became of the requests they struck."""
    table = _table("What failed, and how it was absorbed", "provider", "failure", ("times", "right"), "absorbed by")
    absorbed: dict[tuple[str, str], Counter[str]] = {}
    for outcome in outcomes:
        for place, attempt in enumerate(outcome.attempts):
            if attempt.outcome != "success":
                key = attempt.provider_id, _failure(attempt, streamed=outcome.streamed)
                absorbed.setdefault(key, Counter())[_remedy(outcome, place)] += 1
    for (provider, failure), remedies in sorted(absorbed.items()):
        how = ", ".join(f"{remedy} ({times})" for remedy, times in remedies.most_common())
        table.add_row(provider, failure, str(remedies.total()), how)
    return table


def verdict(outcomes: Sequence[Outcome]) -> Text:
    """Return the closing lines."""
    whole = sum(outcome.is_whole for outcome in outcomes)
    struck = sum(any(attempt.outcome != "success" for attempt in outcome.attempts) for outcome in outcomes)
    cost = sum(attempt.cost or 0.0 for outcome in outcomes for attempt in outcome.attempts)
    text = Text()
    good = whole == len(outcomes)
    text.append(f"{whole} of {len(outcomes)} answers whole", style="bold green" if good else "bold red")
    text.append(f"; {struck} requests met a failing provider; ${cost:.4f} spent; ")
    text.append(f"the median answer took {median(outcome.seconds for outcome in outcomes) * 1000:.0f} ms, ")
    text.append(f"the slowest {max(outcome.seconds for outcome in outcomes) * 1000:.0f} ms.")
    for outcome in outcomes:
        if not outcome.is_whole:
            text.append(f"\nrequest {outcome.number}: {outcome.error or 'the answer is not whole'}", style="red")
    return text


def print_report(console: Console, mesh: ModelMesh, outcomes: Sequence[Outcome]) -> None:
    """Print all of it."""
    for part in report(mesh, outcomes).renderables:
        print_whole(console, part)


def _failure(attempt: AttemptRecord, *, streamed: bool) -> str:
    said = _SAID.get(attempt.outcome, attempt.outcome)
    if streamed and attempt.time_to_first_token_ms is not None:
        said = "stream " + ("went silent" if attempt.outcome == "timeout" else "was cut")
    failed_with = attempt.status_code if attempt.status_code and attempt.status_code >= 400 else None
    return said if failed_with is None else f"{failed_with} {said}"


def _remedy(outcome: Outcome, place: int) -> str:
    if place + 1 == len(outcome.attempts):
        return "nobody: the caller got an error"
    after = outcome.attempts[place + 1]
    if after.model_id == outcome.attempts[place].model_id:
        return "a retry"
    return f"rotation to {after.model_id}"


def _table(title: str, *columns: str | tuple[str, str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        name, justify = column if isinstance(column, tuple) else (column, "left")
        table.add_column(name, justify="right" if justify == "right" else "left", no_wrap=name != "absorbed by")
    return table
