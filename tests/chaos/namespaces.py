"""Network namespaces: a machine of its own for a worker, as far as the network goes. Needs root and iproute2.

    worker  198.18.…  <--- veth, the link --->  198.18.…  proxies to PostgreSQL, broker, store

What runs in one reaches nothing but this side's end of its link. A link that is down resets nothing: packets are lost.
"""

import ipaddress
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_NETWORK = ipaddress.ip_network("198.18.0.0/15")
"""For tests of networks (RFC 2544)."""
_HOSTS = 4
"""Of a /30: two can be used."""


def possible() -> bool:
    """Whether this process may make them."""
    return sys.platform == "linux" and os.geteuid() == 0 and shutil.which("ip") is not None


class Namespace:
    """A network namespace and the link to it."""

    def __init__(self, number: int) -> None:
        """`number`: which of this process's."""
        self._name = f"thaw-{os.getpid()}-{number}"
        self._end = f"thaw{os.getpid()}w{number}"  # 15 characters at most
        block = (os.getpid() * 8 + number) * _HOSTS % _NETWORK.num_addresses
        self.host = str(_NETWORK[block + 1])
        """The address of this side's end."""
        inside = str(_NETWORK[block + 2])
        _ip("netns", "add", self._name)
        try:
            _ip("link", "add", self._end, "type", "veth", "peer", "name", "eth0", "netns", self._name)
            _ip("address", "add", f"{self.host}/30", "dev", self._end)
            _ip("link", "set", self._end, "up")
            _ip("-n", self._name, "address", "add", f"{inside}/30", "dev", "eth0")
            for each in ("lo", "eth0"):
                _ip("-n", self._name, "link", "set", each, "up")
        except subprocess.CalledProcessError:
            self.close()
            raise

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command that runs this one in it, in the same process."""
        return ["ip", "netns", "exec", self._name, *command]

    @contextmanager
    def unplugged(self) -> Iterator[None]:
        """Meanwhile nothing gets through."""
        _ip("link", "set", self._end, "down")
        try:
            yield
        finally:
            _ip("link", "set", self._end, "up")

    def close(self) -> None:
        """Delete both, and the link with them."""
        _ip("netns", "delete", self._name)
        # The kernel deletes the link's ends once the last process in the namespace is gone, or at once here.
        subprocess.run(["ip", "link", "delete", self._end], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
