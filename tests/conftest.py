"""What every test starts from."""

import os
import signal

# Triton decides when it is first imported whether kernels run in its interpreter, and any test may
# import a library that imports it.
os.environ["TRITON_INTERPRET"] = "1"


def pytest_configure() -> None:
    """Ctrl-C must reach the children of tests, also where the shell started us in the background.

    Such a shell has it ignored, and children inherit that; a handler becomes the default in them.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
