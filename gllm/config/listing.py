"""Prints a configuration as a file that would give it again, each line with where it is from.

This module does not know how the configuration was made.
"""

import math

import yaml

from gllm.config.schema import SECRETS, SECTIONS, DeploymentConfig


def show(config: DeploymentConfig) -> str:
    """What is in force and from where: nested YAML with the source of each value as a comment."""
    lines: list[tuple[str, str]] = []
    for section in SECTIONS:
        values = getattr(config, section).model_dump()
        lines.append((f"{section}:", ""))
        for name, value in values.items():
            if f"{section}.{name}" in SECRETS:  # in the form in which a file has them
                value = {
                    key.pop("name"): {k: v for k, v in key.items() if v is not None} for key in value
                } or None
            written = yaml.safe_dump(
                {name: value}, allow_unicode=True, width=math.inf, default_flow_style=True, sort_keys=False
            ).strip()[1:-1]
            lines.append((f"  {written}", config.sources.get(f"{section}.{name}", "unknown")))
    width = max(len(line) for line, _ in lines)
    return "\n".join(f"{line:<{width}}  # {source}" if source else line for line, source in lines)
