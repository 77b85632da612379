"""Where this machine is, seen from the one that all machines meet at. Linux and macOS; without torch."""

from __future__ import annotations

import socket
import sys


def own_address(host: str) -> str:
    """The address that this machine shows to `host`: that of the way there. Nothing is sent.

    Raises `OSError` where there is no way.
    """
    family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as tried:
        tried.connect(address)
        return str(tried.getsockname()[0])


def interface_of(address: str) -> str:
    """The network interface that has this IPv4 address; empty where it cannot be found out."""
    if sys.platform != "linux":
        return ""
    import fcntl
    import struct

    siocgifaddr = 0x8915  # <linux/sockios.h>: ask for an interface's address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asked.fileno(), siocgifaddr, struct.pack("256s", name.encode()[:15]))
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return ""


def is_free(host: str, port: int) -> bool:
    """Whether this machine has the address of `host`, and nobody listens at `port` there."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError:
        return False
    return True
