"""Where a page is served: a socket on this machine alone, unless told, and the names it goes by."""

import ipaddress
import socket
from dataclasses import dataclass, field

from attnprobe.errors import ReportError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
"""What browsers call this machine."""


@dataclass(frozen=True, slots=True)
class Address:
    """A socket that listens, and whom it lets in."""

    socket: socket.socket
    """Bound and listening: connections wait in it until they are served."""
    host: str
    """What was asked for."""
    port: int
    """The port that was found."""
    is_remote: bool
    """Whether other machines can reach it."""
    own_names: frozenset[str] = field(default=LOOPBACK_NAMES)
    """Names that a request may call this machine by."""

    @property
    def origin(self) -> str:
        """The address as a browser takes it."""
        host = socket.gethostname() if _is_wildcard(self.host) else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def is_named(self, header: str) -> bool:
        """Tell whether a `Host` header means this machine.

        A page elsewhere can point a name of its own at this machine and have the visitor's
        browser ask here (DNS rebinding). The request then carries that foreign name. The port is
        not looked at: it is another one behind a tunnel.
        """
        name = _name_in(header)
        if name in self.own_names:
            return True
        return self.is_remote and _is_wildcard(self.host) and _literal(name) is not None


def listen(host: str = "127.0.0.1", port: int = 0, *, allow_remote: bool = False) -> Address:
    """Listen on a port of this machine.

    Args:
        host: Name or address; one that other machines can reach must be allowed.
        port: 0 for any that is free.
        allow_remote: Let other machines in.

    Raises:
        ReportError: If the host is not this machine, is reached by others and that was not
            allowed, or the port is taken.
    """
    family, found = _resolved(host, port)
    is_remote = not ipaddress.ip_address(found[0].partition("%")[0]).is_loopback
    if is_remote and not allow_remote:
        raise ReportError(
            "other machines could reach the run at this address", where="--host", got=host,
            expected="this machine alone, such as 127.0.0.1",
            fix="tunnel to it (ssh -L 8000:localhost:8000 with --port 8000), or add --allow-remote "
            "to let in everyone who has the link, unencrypted",
        )  # fmt: skip
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found)
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise ReportError(
            "cannot listen there", where=f"--host {host} --port {port}", got=error.strerror,
            fix="leave out --port for one that is free",
        ) from error  # fmt: skip
    names = LOOPBACK_NAMES | {_name_in(host), found[0]}
    if is_remote and _is_wildcard(host):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return Address(listening, host, listening.getsockname()[1], is_remote, frozenset(names))


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    if not 0 <= port < 65536:
        raise ReportError("no port", where="--port", got=port, expected="0 (any) to 65535")
    try:
        entries = socket.getaddrinfo(host or "127.0.0.1", port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ReportError(
            "no such host", where="--host", got=f"'{host}'", expected="an address of this machine"
        ) from error
    family, *_, address = entries[0]
    return family, (str(address[0]), int(address[1]))


def _name_in(header: str) -> str:
    """Return the name of `name`, `name:port`, `[::1]:port` or `::1`."""
    text = header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _literal(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _is_wildcard(host: str) -> bool:
    found = _literal(host)
    return found is not None and found.is_unspecified
