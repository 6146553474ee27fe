"""What every test starts from."""

import signal


def pytest_configure() -> None:
    """Ctrl-C must reach the children of tests, also where the shell started us in the background.

    Such a shell has it ignored, and children inherit that; a handler becomes the default in them.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
