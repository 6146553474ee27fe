"""The engine's figures in Prometheus' text form.

Gauges and counts of the scheduler's state come from `Stats`, everything else from the series that all
processes report (`gllm.meters`). Knows names and forms; nothing of how a figure comes to be.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gllm.meters import CATALOGUE, added_up
from gllm.protocol.messages import PassedOver, SchedulerReady, Series, Stats

PREFIX = "gllm"
VLLM = "vllm"
ENGINE = "0"  # vLLM numbers its engines; a deployment of gLLM has one


@dataclass(frozen=True, slots=True)
class FromStats:
    """A figure of the scheduler's state, as it is or as it grew."""

    name: str
    about: str
    value: Callable[[Stats], float]
    is_count: bool = False


def _usage(stats: Stats) -> float:
    return 1 - stats.num_free_pages / stats.num_pages if stats.num_pages else 0.0


OF_STATS = (
    FromStats("num_requests_running", "Sequences that run.", lambda s: s.num_running),
    FromStats("num_requests_waiting", "Sequences that wait.", lambda s: s.num_waiting),
    FromStats("num_tokens_waiting", "Tokens of the sequences that wait.", lambda s: s.num_waiting_tokens),
    FromStats("num_plans_in_flight", "Plans without a result.", lambda s: s.num_plans_in_flight),
    FromStats("kv_cache_usage_perc", "Share of the KV cache's pages that is in use, 0 to 1.", _usage),
    FromStats("oldest_step_age_seconds", "Age of the oldest plan without a result.",
              lambda s: s.oldest_step_s),
    FromStats("steps", "Steps planned.", lambda s: s.num_steps, is_count=True),
    FromStats("num_preemptions", "Sequences that made room for others.", lambda s: s.num_preemptions, True),
    FromStats("prompt_tokens", "Prompt tokens computed.", lambda s: s.num_prompt_tokens, True),
    FromStats("prompt_tokens_cached", "Prompt tokens found in the prefix cache.",
              lambda s: s.num_prefix_hit_tokens, True),
    FromStats("generation_tokens", "Tokens generated.", lambda s: s.num_generated_tokens, True),
    FromStats("prefix_cache_queries", "Tokens looked for in the prefix cache.",
              lambda s: s.num_prefix_query_tokens, True),
    FromStats("prefix_cache_hits", "Of these, found.", lambda s: s.num_prefix_hit_tokens, True),
)  # fmt: skip
PASSED_OVER = "waiting_passed_over"
CACHE_INFO = "cache_config_info"


def exposition(stats: Stats, limits: SchedulerReady, model: str, like_vllm: bool) -> bytes:
    """All metrics; with `like_vllm` a second time under vLLM's prefix, for dashboards made for it."""
    registry = CollectorRegistry(auto_describe=False)
    for prefix in (PREFIX, VLLM) if like_vllm else (PREFIX,):
        registry.register(_Figures(prefix, stats, limits, model))
    return generate_latest(registry)


class _Figures(Collector):
    """One scrape under one prefix."""

    def __init__(self, prefix: str, stats: Stats, limits: SchedulerReady, model: str) -> None:
        self._prefix = prefix
        self._stats = stats
        self._limits = limits
        self._labels = (model, ENGINE)

    def describe(self) -> Iterable[Metric]:
        return ()  # without it the registry would collect once more to learn the names

    def collect(self) -> Iterator[Metric]:
        stats, names = self._stats, ("model_name", "engine")
        for figure in OF_STATS:
            kind = CounterMetricFamily if figure.is_count else GaugeMetricFamily
            family = kind(f"{self._prefix}:{figure.name}", figure.about, labels=names)
            family.add_metric(self._labels, figure.value(stats))
            yield family
        reasons = CounterMetricFamily(
            f"{self._prefix}:{PASSED_OVER}",
            "Sequences that did not get into a step, by reason.",
            labels=(*names, "reason"),
        )
        for reason, count in zip(PassedOver, stats.passed_over, strict=True):
            reasons.add_metric((*self._labels, reason.name.lower()), count)
        yield reasons
        info = GaugeMetricFamily(
            f"{self._prefix}:{CACHE_INFO}",
            "Sizes of the KV cache.",
            labels=(*names, "block_size", "num_gpu_blocks"),
        )
        info.add_metric((*self._labels, str(self._limits.page_size), str(self._limits.num_pages)), 1)
        yield info
        yield from self._of_series()

    def _of_series(self) -> Iterator[Metric]:
        by_name: dict[str, list[Series]] = {name: [] for name in CATALOGUE}
        for series in added_up(self._stats.series):
            by_name[series.name].append(series)
        for name, meter in CATALOGUE.items():
            if not meter.labels and not by_name[name]:
                buckets = len(meter.bounds) + 1 if meter.bounds else 0
                by_name[name].append(Series(name, [], [0] * buckets, 0.0))
            full, labels = f"{self._prefix}:{name}", ("model_name", "engine", *meter.labels)
            if not meter.bounds:
                counter = CounterMetricFamily(full, meter.about, labels=labels)
                for series in by_name[name]:
                    counter.add_metric((*self._labels, *series.labels), series.total)
                yield counter
                continue
            histogram = HistogramMetricFamily(full, meter.about, labels=labels)
            for series in by_name[name]:
                buckets_ = _cumulative(meter.bounds, series.counts)
                histogram.add_metric((*self._labels, *series.labels), buckets_, series.total)
            yield histogram


def _cumulative(bounds: Iterable[float], counts: Iterable[int]) -> list[tuple[str, float]]:
    """Prometheus' buckets: how many values are not above each end."""
    so_far, buckets = 0, []
    for end, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        so_far += count
        buckets.append((end, float(so_far)))
    return buckets
