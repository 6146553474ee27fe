"""Every message that two gLLM processes exchange, and nothing else that they share.

| message | way |
|---|---|
| `Hello` | first on every connection |
| `Submit`, `Masks`, `Cancel`, `StatsRequest`, `Report` | frontend -> scheduler |
| `ListRequests`, `ResetPrefixCache` | frontend -> scheduler |
| `SchedulerReady`, `Tokens`, `Rejected`, `Stats`, `RequestList`, `PrefixCacheReset` | scheduler -> frontend |
| `StepPlan` (with its `Admit`s) | scheduler -> worker |
| `WorkerReady`, `StepResult`, `WorkerFailed` | worker -> scheduler |
| `Ready`, `Failed`, `Drained` | child -> launcher |
| `Drain`, `Stop` | launcher -> child |

They are defined by connection, in the modules that this one imports; others import from here, so that
whoever knows one message can decode all.
"""

from gllm.protocol.base import (
    MAX_LABEL,
    MAX_LISTED,
    MAX_NAME,
    MAX_OUTPUTS,
    MAX_PAGES,
    MAX_SALT,
    MAX_SENTENCE,
    MAX_SEQUENCES,
    MAX_SERIES,
    MAX_STOP_IDS,
    MAX_TOKENS,
    MAX_VOCABULARY,
    PROTOCOL_VERSION,
    Hello,
    Message,
    Role,
    message,
)
from gllm.protocol.launcher_messages import Drain, Drained, Failed, Ready, Stop
from gllm.protocol.operator_messages import (
    ListRequests,
    PassedOver,
    PrefixCacheReset,
    Report,
    RequestList,
    RequestState,
    ResetPrefixCache,
    Series,
    Stats,
    StatsRequest,
)
from gllm.protocol.request_messages import (
    MAX_MASK_BYTES,
    MAX_MASKS,
    Cached,
    Cancel,
    Finished,
    FinishReason,
    Mask,
    Masks,
    RejectCode,
    Rejected,
    Sampling,
    SchedulerReady,
    Submit,
    Tokens,
    mask_bytes,
)
from gllm.protocol.step_messages import (
    MAX_PLAN_MASK_BYTES,
    Admit,
    StepPlan,
    StepResult,
    WorkerFailed,
    WorkerReady,
)

__all__ = [
    "MAX_LABEL",
    "MAX_LISTED",
    "MAX_MASKS",
    "MAX_MASK_BYTES",
    "MAX_NAME",
    "MAX_OUTPUTS",
    "MAX_PAGES",
    "MAX_PLAN_MASK_BYTES",
    "MAX_SALT",
    "MAX_SENTENCE",
    "MAX_SEQUENCES",
    "MAX_SERIES",
    "MAX_STOP_IDS",
    "MAX_TOKENS",
    "MAX_VOCABULARY",
    "PROTOCOL_VERSION",
    "Admit",
    "Cached",
    "Cancel",
    "Drain",
    "Drained",
    "Failed",
    "FinishReason",
    "Finished",
    "Hello",
    "ListRequests",
    "Mask",
    "Masks",
    "Message",
    "PassedOver",
    "PrefixCacheReset",
    "Ready",
    "RejectCode",
    "Rejected",
    "Report",
    "RequestList",
    "RequestState",
    "ResetPrefixCache",
    "Role",
    "Sampling",
    "SchedulerReady",
    "Series",
    "Stats",
    "StatsRequest",
    "StepPlan",
    "StepResult",
    "Stop",
    "Submit",
    "Tokens",
    "WorkerFailed",
    "WorkerReady",
    "mask_bytes",
    "message",
]
