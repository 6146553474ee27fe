"""Field kinds that a recording has beyond those of messages: settings.

Like the kinds of `protocol.wire`: every reader raises `ProtocolError` and nothing else.
"""

from dataclasses import astuple, dataclass
from typing import Any

from gllm.protocol.wire import Float, Int, Kind, ProtocolError
from gllm.scheduler.policy import Fcfs, Policy, Priority, TokenThrottling

SECONDS = Float(-1e15, 1e15)  # on the clock of the recorded process


@dataclass(frozen=True, slots=True)
class Settings:
    """A frozen dataclass of plain values, as an array of its fields."""

    cls: type[Any]
    fields: tuple[Kind, ...]

    def write(self, value: Any) -> list[Any]:
        return list(astuple(value))

    def read(self, raw: Any) -> Any:
        if type(raw) is not list or len(raw) != len(self.fields):
            raise ProtocolError(f"expected {len(self.fields)} fields of {self.cls.__name__}, got {raw!r:.80}")
        return self.cls(*[kind.read(value) for kind, value in zip(self.fields, raw, strict=True)])


POLICIES = {
    "fcfs": Settings(Fcfs, ()),
    "priority": Settings(Priority, ()),
    "token_throttling": Settings(TokenThrottling, (Int(1), Int(1), Int(1), Float(0.0, 0.99))),
}


def name_of(policy: Policy) -> str:
    """The name by which a deployment asks for this policy."""
    return next(name for name, settings in POLICIES.items() if type(policy) is settings.cls)


@dataclass(frozen=True, slots=True)
class PolicyKind:
    """A policy: its name and its parameters."""

    def write(self, value: Any) -> list[Any]:
        name = name_of(value)
        return [name, POLICIES[name].write(value)]

    def read(self, raw: Any) -> Policy:
        if type(raw) is not list or len(raw) != 2 or type(raw[0]) is not str or raw[0] not in POLICIES:
            raise ProtocolError(f"expected a policy and its parameters, got {raw!r:.80}")
        policy: Policy = POLICIES[raw[0]].read(raw[1])
        return policy
