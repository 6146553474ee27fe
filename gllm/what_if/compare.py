"""A recording under another setting: what was, what a model makes of it, and what would have been.

The worker's steps cannot be had again, so their durations come from a model that is fitted to the
recorded ones. To compare like with like, the recorded setting runs through the same model, too: its
column beside the recorded one shows how far the model is to be trusted.

Knows recordings, histories and settings; not the command line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gllm.config import SchedulerConfig
from gllm.scheduler.kinds import name_of
from gllm.scheduler.policy import Policy, TokenThrottling, policy_of
from gllm.scheduler.recording import Part
from gllm.scheduler.state import CoreState
from gllm.what_if.history import History
from gllm.what_if.recorded import RecordedHistory
from gllm.what_if.simulation import Costs, Setting, Simulation

# Keys of the configuration that can be changed, and what they are called here.
LIMITS = {
    "scheduler.max_num_seqs": "max_num_seqs",
    "scheduler.max_num_batched_tokens": "max_num_batched_tokens",
    "scheduler.micro_batches": "max_plans_in_flight",
    "scheduler.max_num_queued_reqs": "max_num_queued_reqs",
    "scheduler.max_num_queued_tokens": "max_num_queued_tokens",
    "scheduler.prefix_cache": "share_prefixes",
}
POLICY = {
    "scheduler.policy": "policy",
    "scheduler.throttling_min_tokens": "throttling_min_tokens",
    "scheduler.throttling_max_tokens": "throttling_max_tokens",
    "scheduler.throttling_iterations": "throttling_iterations",
    "scheduler.throttling_free_threshold": "throttling_free_threshold",
}
WORKER = {"worker.num_pages": "num_pages", "worker.page_size": "page_size"}


@dataclass(frozen=True)
class Comparison:
    """Three histories of the same requests."""

    recorded: History
    modelled: History  # the recorded setting with the model's steps
    what_if: History  # the other setting with the model's steps
    setting: Setting
    other: Setting
    costs: Costs
    num_lost_workers: int


def compare(parts: Sequence[Part], changes: Mapping[str, object]) -> Comparison:
    """The recording beside its model under its own setting, and under that with `changes` (by key).

    Raises `RecordingError` where the recording has no times, and `Differs` where it does not replay.
    """
    truth = RecordedHistory(parts)
    setting = setting_of(parts[0].begin.state)
    other = changed(setting, changes)
    costs = truth.clockwork.costs()
    cases, began_at = truth.history.cases, parts[0].begin.now
    return Comparison(
        recorded=truth.history,
        modelled=Simulation(cases, setting, costs, began_at).run(),
        what_if=Simulation(cases, other, costs, began_at).run(),
        setting=setting,
        other=other,
        costs=costs,
        num_lost_workers=truth.num_lost_workers,
    )


def setting_of(state: CoreState) -> Setting:
    return Setting(
        limits=state.limits,
        policy=state.policy,
        num_pages=state.num_pages,
        page_size=state.page_size,
        max_model_len=state.max_model_len,
        length_bound=state.length_bound,
    )


def changed(setting: Setting, changes: Mapping[str, object]) -> Setting:
    """`setting` with other values for some keys. Another page size alone keeps the size of the cache."""

    def among(names: Mapping[str, str]) -> dict[str, object]:
        return {name: changes[key] for key, name in names.items() if key in changes}

    limits = replace(setting.limits, **among(LIMITS))  # type: ignore[arg-type]
    policy = setting.policy
    if options := among(POLICY):
        policy = policy_of(SchedulerConfig.model_validate({**_options_of(setting.policy), **options}))
    worker = among(WORKER)
    page_size = worker.get("page_size", setting.page_size)
    if isinstance(page_size, int) and "num_pages" not in worker:
        worker["num_pages"] = max(setting.num_pages * setting.page_size // page_size, 1)
    return replace(setting, limits=limits, policy=policy, **worker)  # type: ignore[arg-type]


def _options_of(policy: Policy) -> dict[str, object]:
    """The configuration that gives this policy."""
    options: dict[str, object] = {"policy": name_of(policy)}
    if isinstance(policy, TokenThrottling):
        options["throttling_min_tokens"] = policy.min_tokens
        options["throttling_max_tokens"] = policy.max_tokens
        options["throttling_iterations"] = policy.iterations
        options["throttling_free_threshold"] = policy.free_threshold
    return options
