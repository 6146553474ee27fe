"""The launcher: starts the processes of a deployment, watches them, stops them in order.

Nobody imports it but what a user calls. Knows each process by the name of its main module alone.
"""

from gllm.launch.deployment import OFFLINE, SERVING, Deployment, LaunchError
from gllm.launch.serving import serve

__all__ = ["OFFLINE", "SERVING", "Deployment", "LaunchError", "serve"]
