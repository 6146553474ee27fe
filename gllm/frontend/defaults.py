"""What a checkpoint's generation_config.json says of sampling, for requests that are silent about it.

Knows the names of that file and ours; nothing of files or requests.
"""

import logging
from collections.abc import Mapping
from typing import Any

from gllm.frontend.params import ParameterError, SamplingParams
from gllm.process import StartError

log = logging.getLogger("gllm")

NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
# What would change the output too, but is not supported; and the value that asks for nothing.
NOT_SUPPORTED = {"typical_p": 1, "epsilon_cutoff": 0, "eta_cutoff": 0}


def sampling_defaults(generation_config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fields of `SamplingParams` that the checkpoint sets; raises `StartError` for values out of range.

    source: the option model.generation_config, "auto" or "vllm", which leaves all of them out.
    `do_sample: false` is greedy, and then a request that asks for a temperature gets no other default.
    """
    if source == "vllm":
        return {}
    given = {name: value for name, value in generation_config.items() if value is not None}
    defaults = {ours: given[theirs] for theirs, ours in NAMES.items() if theirs in given}
    if given.get("do_sample") is False:
        defaults = {"temperature": 0.0} | {
            k: v for k, v in defaults.items() if k in ("max_tokens", "repetition_penalty")
        }
    try:
        SamplingParams(**defaults)
    except ParameterError as error:
        raise StartError(
            f"generation_config.json: {error}: mend the file, or start with --generation-config vllm, "
            "which leaves its sampling out"
        ) from None
    idle = [name for name, neutral in NOT_SUPPORTED.items() if given.get(name, neutral) != neutral]
    if idle:
        log.warning("generation_config.json: not supported yet, and left out: %s", ", ".join(idle))
    if defaults:
        shown = ", ".join(f"{name} {value:g}" for name, value in sorted(defaults.items()))
        log.info("defaults of the checkpoint where a request is silent: %s", shown)
    return defaults
