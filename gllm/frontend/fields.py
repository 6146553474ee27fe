"""Every field of a request that somebody knows: a field is honoured or refused by its name.

Three groups: honoured (the request types say which), accepted while neutral (the value that changes
nothing) and else refused, and harmless (they cannot change the output). Anything else is a mistake.
To support a field, move its name from here to the request types.
"""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from gllm.frontend.params import ParameterError

# Values beside null that ask for nothing.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    # OpenAI
    "suffix": ("",),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "reasoning_effort": (),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "verbosity": (),
    "web_search_options": (),
    # vLLM
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "spaces_between_special_tokens": (True,),
    "truncation_side": (),
    "documents": ([],),
    "chat_template": (),
    "include_reasoning": (True,),
    "guided_whitespace_pattern": (),
    "return_tokens_as_token_ids": (False,),
    "logprob_token_ids": (),
    "kv_transfer_params": (),
    "vllm_xargs": (),
    "thinking_token_budget": (),
    "repetition_detection": (),
    "stream_interval": (1,),
    "session_id": (),
    "watermarking": (),
    "prompt_embeds": (),
    # SGLang
    "stop_regex": (),
    "rid": (),
    "session_params": (),
    "lora_path": (),
    "separate_reasoning": (True,),
    "stream_reasoning": (True,),
    "no_stop_trim": (False,),
    "custom_logit_processor": (),
    "custom_params": (),
    "return_hidden_states": (False,),
}
NEUTRAL_IN_CHAT: Mapping[str, tuple[Any, ...]] = {
    "add_special_tokens": (False,),
    "best_of": (1,),
    "echo": (False,),
}
NEUTRAL_IN_COMPLETIONS: Mapping[str, tuple[Any, ...]] = {
    "add_special_tokens": (True,),
    "chat_template_kwargs": ({},),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
}

HARMLESS = frozenset(
    {
        "user",
        "metadata",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
    }
)
SERVICE_TIERS = (None, "auto", "default")


def honoured(
    body: Mapping[str, Any], known: Collection[str], neutral: Mapping[str, tuple[Any, ...]]
) -> dict[str, Any]:
    """The fields of `body` among `known`; raises `ParameterError` for one that would be ignored."""
    kept = {}
    neutral = {**NEUTRAL, **neutral}
    for name, value in body.items():
        if name in known:
            kept[name] = value
        elif name in neutral:
            if value is not None and not any(_same(value, one) for one in neutral[name]):
                raise ParameterError(
                    name, f"{name} is not supported yet: leave it out", "unsupported_parameter"
                )
        elif name == "service_tier":
            if value not in SERVICE_TIERS:
                raise ParameterError(
                    name, "service_tier must be auto or default: there is one tier", "unsupported_parameter"
                )
        elif name not in HARMLESS:
            raise ParameterError(name, _unknown(name, {*known, *neutral, *HARMLESS}), "unknown_parameter")
    return kept


def _same(value: Any, neutral: Any) -> bool:
    """Equal as JSON values: 1 and 1.0 are, 1 and true are not."""
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def _unknown(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name[:80], sorted(known), n=1)
    hint = f"did you mean {near[0]}?" if near else "leave it out"
    return f"there is no field {name[:80]!r}: {hint}"
