"""Prints a configuration as a file that would give it again, each line with where it is from.

This module does not know how the configuration was made.
"""

import math

import yaml

from gllm.config.schema import SECTIONS, DeploymentConfig


def show(config: DeploymentConfig) -> str:
    """What is in force and from where: nested YAML with the source of each value as a comment."""
    lines: list[tuple[str, str]] = []
    for section in SECTIONS:
        values = getattr(config, section).model_dump()
        lines.append((f"{section}:", ""))
        for name, value in values.items():
            written = yaml.safe_dump({name: value}, allow_unicode=True, width=math.inf).strip()
            lines.append((f"  {written}", config.sources.get(f"{section}.{name}", "unknown")))
    width = max(len(line) for line, _ in lines)
    return "\n".join(f"{line:<{width}}  # {source}" if source else line for line, source in lines)
