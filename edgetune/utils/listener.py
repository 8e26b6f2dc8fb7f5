"""Opening a TCP port for a server, and saying in a sentence why that is impossible."""

from __future__ import annotations

import os
import socket

from edgetune.utils.errors import ResourceError
from edgetune.utils.sanitize import brief


def open_listener(host: str, port: int) -> socket.socket:
    """Listen on an address; port 0 is any that is free.

    Raises:
        ResourceError: the port cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0
        why = os.strerror(number) if number > 0 else "there is no such host"  # gaierror has numbers below 0
        raise ResourceError(
            f"Cannot listen on {brief(host)}, port {port}: {why}; choose another with --port or --host."
        ) from error
    # Accepted sockets inherit it; with Nagle's algorithm each answer waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
