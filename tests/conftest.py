"""What every test starts from."""

import os
import signal

from hypothesis import HealthCheck, settings

# Triton decides when it is first imported whether kernels run in its interpreter, and any test may
# import a library that imports it.
os.environ["TRITON_INTERPRET"] = "1"
# Two processes of tests share the cores: threads of one would only get into the other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes is the machine's affair: a neighbour's load must not fail a property.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


def pytest_configure() -> None:
    """Ctrl-C must reach the children of tests, also where the shell started us in the background.

    Such a shell has it ignored, and children inherit that; a handler becomes the default in them.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
