"""The port that several frontends share.

Knows sockets; nothing of processes.
"""

import contextlib
import socket
from collections.abc import Iterator

from gllm.config.schema import FrontendConfig


@contextlib.contextmanager
def reserved(options: FrontendConfig) -> Iterator[int]:
    """The port that several frontends will share: free now, and the same for all if any may be taken.

    Their sockets allow others of this user's beside them, so they would not notice a server that is
    there already; a socket that allows none does.
    """
    try:
        family = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((options.host, options.port))
            port: int = probe.getsockname()[1]
        held = socket.socket(family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((options.host, port))  # it never listens, so that no connection comes to it
    except OSError as error:
        raise ValueError(
            f"cannot listen on {options.host} port {options.port} ({error.strerror}): choose another one "
            "with --port (0: any free one) or --host, or stop the program that has it"
        ) from None
    with held:
        yield port
