"""The answers that `gllm simulate` gives: runs of a trace at rates and settings, and how they are shown.

Takes parsed flags (see `command`); knows nothing of how they are written.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gllm.config import DeploymentConfig, load
from gllm.simulate.cost import CostFile, read_costs
from gllm.simulate.engine import simulate
from gllm.simulate.plot import new_figure, plot_curve
from gllm.simulate.report import Slo, summary, table
from gllm.simulate.search import Figures, best, highest_rate
from gllm.traces import Trace, read_trace

CURVE_FACTORS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5)


class UsageError(ValueError):
    """Flags that do not go together; the message is one sentence."""


@dataclass(frozen=True)
class Question:
    """One deployment before one trace; each answer is a run, made once."""

    trace: Trace
    config: DeploymentConfig
    costs: CostFile
    slo: Slo | None
    known: dict[tuple[float, int], dict[str, Any]] = field(default_factory=dict)

    def run(self, rate: float | None = None, budget: int | None = None) -> dict[str, Any]:
        """The figures at a rate and with a `max_num_batched_tokens`: the trace's and the deployment's
        where they are not given."""
        key = rate or self.trace.rate, budget or self.config.scheduler.max_num_batched_tokens
        if key not in self.known:
            trace = self.trace if rate is None else self.trace.at_rate(rate)
            scheduler = self.config.scheduler.model_copy(update={"max_num_batched_tokens": key[1]})
            config = self.config.model_copy(update={"scheduler": scheduler})
            figures = summary(simulate(trace, config, self.costs), self.slo)
            self.known[key] = {**figures, "max_num_batched_tokens": key[1]}
            self._tell(self.known[key])
        return self.known[key]

    def _tell(self, figures: Figures) -> None:
        """A line for those who wait."""
        kept = f", {100 * figures['slo_attainment']:.1f} % within the SLO" if self.slo else ""
        print(
            f"{figures['request_rate']:.3f} requests/s, {figures['max_num_batched_tokens']} tokens a step: "
            f"median TTFT {figures['median_ttft_ms']:.0f} ms{kept} "
            f"({figures['duration']:.0f} s in {figures['wall_s']:.1f} s)",
            file=sys.stderr,
        )


def answer(given: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for."""
    question = asked(given)
    if given.find_rate and question.slo is None:
        raise UsageError(
            "--find-rate needs the SLO that is to be kept: add --goodput, such as ttft:200 tpot:50"
        )
    if given.plot is not None:
        new_figure()  # what is missing is said now, not when all runs are done
    answers: dict[str, Any] = {"run": question.run()}
    rate = None
    if given.find_rate:
        rate = highest_rate(
            lambda tried: float(question.run(tried)["slo_attainment"]), question.trace.rate, given.slo_share
        )
        answers["highest_rate"] = rate
    if given.find_budget:
        runs = {budget: question.run(rate, budget) for budget in given.find_budget}
        answers["budgets"] = list(runs.values())
        answers["best_max_num_batched_tokens"] = best(runs)
    if given.rates is not None or given.plot is not None:
        rates = given.rates or [(rate or question.trace.rate) * factor for factor in CURVE_FACTORS]
        answers["curve"] = [question.run(rate) for rate in rates]
    if given.plot is not None:
        title = f"{question.trace.name}: {question.costs.model} on {question.costs.machine.partition(',')[0]}"
        plot_curve(answers["curve"], question.slo, title, given.plot)
    return answers


def asked(given: argparse.Namespace) -> Question:
    """The trace as it is to be served, and who serves it."""
    costs = read_costs(given.cost)
    file = given.target or given.config
    if given.target and given.config:
        raise UsageError(f"two configuration files are given, {given.target} and {given.config}: remove one")
    trace = read_trace(given.trace)
    if given.num_prompts is not None:
        if given.num_prompts < 1:
            raise UsageError(f"--num-prompts is {given.num_prompts}, expected at least 1")
        trace = trace.first(given.num_prompts)
    if given.length_divisor != 1:
        trace = trace.shortened(given.length_divisor)
    if given.request_rate is not None:
        trace = trace.at_rate(given.request_rate)
    elif given.rate_scale is not None:
        trace = trace.at_rate(trace.rate * given.rate_scale)
    return Question(
        trace=trace,
        config=load(file, given, model_path=None if file else costs.model),
        costs=costs,
        slo=Slo.parse(given.goodput) if given.goodput else None,
    )


# ---- what is printed --------------------------------------------------------------------------

CURVE_COLUMNS = {
    "max_num_batched_tokens": ("tokens a step", "{:d}"),
    "request_rate": ("rate (1/s)", "{:.3f}"),
    "request_throughput": ("done (1/s)", "{:.3f}"),
    "median_ttft_ms": ("TTFT p50 (ms)", "{:.1f}"),
    "p99_ttft_ms": ("TTFT p99 (ms)", "{:.1f}"),
    "median_tpot_ms": ("TPOT p50 (ms)", "{:.1f}"),
    "p99_tpot_ms": ("TPOT p99 (ms)", "{:.1f}"),
    "prefix_hit_rate": ("prefix hits", "{:.1%}"),
    "request_goodput": ("goodput (1/s)", "{:.3f}"),
    "slo_attainment": ("within SLO", "{:.1%}"),
}


def shown(answers: dict[str, Any], given: argparse.Namespace) -> str:
    """The answers as text."""
    parts = [table(answers["run"])]
    if "curve" in answers:
        parts.append(rows(answers["curve"]))
    if "budgets" in answers:
        parts.append(rows(answers["budgets"]))
        parts.append(f"best max_num_batched_tokens: {answers['best_max_num_batched_tokens']}")
    if "highest_rate" in answers:
        rate, words = answers["highest_rate"], " ".join(given.goodput)
        kept = f"{100 * given.slo_share:g} % of the requests within {words}"
        parts.append(
            f"no rate keeps {kept}" if rate is None else f"highest rate with {kept}: {rate:.3f} requests/s"
        )
    return "\n\n".join(parts)


def rows(runs: Sequence[Figures]) -> str:
    """One line a run."""
    columns = {key: column for key, column in CURVE_COLUMNS.items() if key in runs[0]}
    lines = ["  ".join(f"{name:>13}" for name, _ in columns.values())]
    lines += ["  ".join(f"{form.format(run[key]):>13}" for key, (_, form) in columns.items()) for run in runs]
    return "\n".join(lines)


def finite(value: Any) -> Any:
    """`value` with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
