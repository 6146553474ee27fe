"""A comparison as a table for people: the recording, its model, and the other setting.

Knows how numbers are shown, not how they came about.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from gllm.protocol.messages import PassedOver, Stats
from gllm.scheduler.columns import columns
from gllm.scheduler.state_text import REASONS
from gllm.steps.cost import Fitted
from gllm.what_if.compare import Comparison
from gllm.what_if.history import Case, History, Output
from gllm.what_if.simulation import Setting

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Line:
    """One number of a history; None where there is none."""

    name: str
    value: Callable[["Numbers"], float | None]
    form: str = "{:,.0f}"


class Numbers:
    """A history in numbers. Requests that were there when it began do not count in waiting times."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.stats: Stats = history.counted()
        self.span_s = history.now - history.began_at
        cases = [case for case in history.cases if not case.was_there]
        outputs = [(case, output) for case in cases for output in case.outputs.values()]
        self.queue = _waits(outputs, lambda output: output.began_at)
        self.first_token = _waits(outputs, lambda output: output.first_token_at)
        self.end_to_end = _waits(outputs, lambda output: output.ended_at)
        self.num_rejected = sum(case.is_rejected for case in cases)
        self.num_expired = sum(case.is_expired for case in cases)


def comparison_text(comparison: Comparison) -> str:
    """Setting, model and table."""
    recorded, modelled, other = (
        Numbers(history) for history in (comparison.recorded, comparison.modelled, comparison.what_if)
    )
    rows: list[list[str]] = [["", "recorded", "its model", "what if", "change"]]
    for line in LINES:
        values = [line.value(numbers) for numbers in (recorded, modelled, other)]
        shown = ["-" if value is None else line.form.format(value) for value in values]
        rows.append([line.name, *shown, _change(values[1], values[2])])
    return "\n".join([*_preface(comparison), "", columns(rows, indent="")])


def _preface(comparison: Comparison) -> list[str]:
    costs = comparison.costs
    lines = [
        f"recorded  {', '.join(f'{name} {value}' for name, value in _named(comparison.setting).items())}",
        f"what if   {_differences(comparison.setting, comparison.other)}",
        f"a step takes {_step_text(costs.step)}",
        f"  fitted to {costs.error.num_steps} steps, half of them within {100 * costs.error.median:.1f} %; "
        "step i of a model is as far off as recorded step i was",
        f"  around it {1e6 * costs.to_worker:.0f} us to an idle worker, {1e6 * costs.between:.0f} us between "
        f"steps, {1e6 * costs.to_scheduler:.0f} us back",
        "requests come when they came, whatever the setting; change: what if against the model",
    ]
    num_there = sum(case.was_there for case in comparison.recorded.cases)
    if num_there:
        lines.append(
            f"{num_there} requests were there when the recording began: both models begin with them anew and "
            "with an empty cache, and their waiting does not count"
        )
    if comparison.num_lost_workers:
        lines.append(f"the worker was lost {comparison.num_lost_workers} times: not so in the models")
    return lines


def _step_text(step: Fitted) -> str:
    parts = [
        f"{1e3 * step.step_s:.3f} ms",
        f"{1e6 * step.token_s:.3f} us a token",
        f"{1e6 * step.row_s:.3f} us a row",
        f"{1e6 * step.chunk_s:.3f} us a chunk",
        f"{1e9 * step.context_token_s:.3f} ns a context token",
        f"{1e9 * step.pair_s:.3f} ns a pair of query and key",
    ]
    return " + ".join(parts)


def _named(setting: Setting) -> dict[str, object]:
    return {
        "policy": setting.policy,
        **{field.name: getattr(setting.limits, field.name) for field in fields(setting.limits)},
        "num_pages": setting.num_pages,
        "page_size": setting.page_size,
    }


def _differences(setting: Setting, other: Setting) -> str:
    before = _named(setting)
    changed = {name: value for name, value in _named(other).items() if value != before[name]}
    return ", ".join(f"{name} {value} for {before[name]}" for name, value in changed.items()) or "the same"


def _waits(outputs: Sequence[tuple[Case, Output]], moment: Callable[[Output], float | None]) -> list[float]:
    """Milliseconds from submission, in order."""
    found = [(case.submitted_at, moment(output)) for case, output in outputs]
    return sorted(1e3 * (at - since) for since, at in found if at is not None)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _percentile(ordered: Sequence[float], percent: int) -> float | None:
    """Nearest rank."""
    return ordered[max(-(-len(ordered) * percent // 100) - 1, 0)] if ordered else None


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _change(before: float | None, after: float | None) -> str:
    if before is None or after is None or before == after:
        return ""
    return f"{after - before:+,.0f}" if not before else f"{100 * (after / before - 1):+.1f} %"


def _wait_lines(title: str, waits: Callable[[Numbers], list[float]]) -> list[Line]:
    def percentile(percent: int) -> Line:
        return Line(f"  p{percent} ms", lambda n: _percentile(waits(n), percent), "{:,.1f}")

    return [
        Line(f"{title}, sequences", lambda n: len(waits(n))),
        Line("  mean ms", lambda n: _mean(waits(n)), "{:,.1f}"),
        *map(percentile, PERCENTILES),
    ]


def _passed_over(reason: PassedOver) -> Line:
    return Line(f"passed over: {REASONS[reason]}", lambda n: n.stats.passed_over[reason])


LINES = [
    Line("steps", lambda n: n.stats.num_steps),
    Line("tokens a step", lambda n: _ratio(n.history.num_tokens, n.stats.num_steps), "{:,.1f}"),
    Line("seconds", lambda n: n.span_s, "{:,.2f}"),
    Line("generated tokens", lambda n: n.stats.num_generated_tokens),
    Line("generated tokens a second", lambda n: _ratio(n.stats.num_generated_tokens, n.span_s), "{:,.0f}"),
    Line("preemptions", lambda n: n.stats.num_preemptions),
    Line(
        "found in the prefix cache",
        lambda n: _ratio(n.stats.num_prefix_hit_tokens, n.stats.num_prefix_query_tokens),
        "{:.1%}",
    ),
    Line("rejected", lambda n: n.num_rejected),
    Line("expired", lambda n: n.num_expired),
    *_wait_lines("queue wait", lambda n: n.queue),
    *_wait_lines("to the first token", lambda n: n.first_token),
    *_wait_lines("end to end", lambda n: n.end_to_end),
    *map(_passed_over, PassedOver),
]
