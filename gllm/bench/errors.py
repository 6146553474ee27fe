"""What stops a bench before it measures anything."""

from gllm.config import ConfigError


class BenchError(ConfigError):
    """An option or a file that cannot be used; one sentence with a way out."""
