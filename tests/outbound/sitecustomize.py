"""Put first on PYTHONPATH: writes each name that is looked up and each address that is connected to, not on loopback.

The file is named by OUTBOUND_FILE. A first line from every process says that it is watched. It sees what goes
through Python's socket module, not what a C library connects by itself.
"""

import ipaddress
import os
import sys

NAMES = ("socket.getaddrinfo", "socket.gethostbyname")
ADDRESSES = ("socket.connect", "socket.sendto", "socket.sendmsg")


def note(line):
    descriptor = os.open(os.environ["OUTBOUND_FILE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def watch(event, arguments):
    if event in NAMES:
        host = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]
        if host and host != "localhost" and address(host) is None:  # nobody is asked for a number
            note(f"outside: {event} {host}")
    elif event in ADDRESSES and isinstance(arguments[1], tuple):
        found = address(arguments[1][0])
        if found is None or not found.is_loopback:
            note(f"outside: {event} {arguments[1]}")


def address(host):
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


if "OUTBOUND_FILE" in os.environ:
    note(f"watched: {os.getpid()} {' '.join(sys.orig_argv)}")
    sys.addaudithook(watch)
