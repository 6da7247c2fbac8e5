"""Fetching a recording from a URL that a client sent, without being made a way into the network the service is in.

Every connection, those of redirects too, is opened by a socket factory that is told the very address it goes to. What a
name resolves to when it is checked and when it is used can therefore not differ (DNS rebinding).
"""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import BinaryIO, cast

import aiohttp
from starlette.datastructures import UploadFile
from yarl import URL

from deployments.exceptions import InvalidRequest

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 64 * 1024
_MEMORY_BYTES = 1024 * 1024
"""What is larger is spooled to disk, as uploads are."""
_NAT64 = IPv6Network("64:ff9b::/96")
_SPECIAL = IPv4Network("192.0.0.0/24"), IPv6Network("fec0::/10")
"""Of IANA's registries of special addresses, of which some versions of Python take a part for public: protocol
assignments, and what once was site-local."""
_PLATFORM = IPv4Network("168.63.129.16/32")
"""Public by its number, but in every virtual machine of Azure the way to the platform."""
_HEADERS = {"accept-encoding": "identity", "user-agent": "qwen3-asr-serve"}

AddressInfo = tuple[int, int, int, str, tuple]
"""Family, type, protocol, canonical name, address: as `socket.getaddrinfo` answers."""


class _AddressRefused(OSError):
    """The address is not one of the public internet."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, looking through the ways to write IPv4 in IPv6."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        if ip in _NAT64:
            ip = IPv4Address(int(ip) & 0xFFFFFFFF)
        else:
            teredo = ip.teredo[1] if ip.teredo else None
            ip = ip.ipv4_mapped or ip.sixtofour or teredo or ip
    if any(ip in network for network in (*_SPECIAL, _PLATFORM)):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def public_socket(address: AddressInfo) -> socket.socket:
    """Make a socket for an address that is public.

    Raises:
        OSError: it is not.
    """
    family, kind, protocol, _, (host, *_) = address
    if not is_public(host):
        raise _AddressRefused("not a public address")  # the same for all of a name's: aiohttp passes on one of equals
    return socket.socket(family, kind, protocol)


@asynccontextmanager
async def fetch(
    url: str,
    *,
    max_bytes: int,
    timeout_s: float,
    make_socket: Callable[[AddressInfo], socket.socket] = public_socket,
) -> AsyncIterator[BinaryIO]:
    """Fetch a file by GET; yields it at its start, and deletes it when the context ends.

    Args:
        url: where it is, http or https.
        max_bytes: largest size.
        timeout_s: seconds that the whole of it may take.
        make_socket: opens connections, or refuses to.

    Raises:
        InvalidRequest: it cannot be had; `param` is `url`.
    """
    spool = UploadFile(cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)), size=0)  # noqa: SIM115
    try:
        try:
            async with asyncio.timeout(timeout_s), _session(make_socket) as session:
                await _download(session, url, spool, max_bytes)
        except TimeoutError:
            raise _refusal(f"could not be fetched within {timeout_s:g} seconds") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _refusal(_reason(error)) from None
        await spool.seek(0)
        yield spool.file
    finally:
        await spool.close()


def _session(make_socket: Callable[[AddressInfo], socket.socket]) -> aiohttp.ClientSession:
    # Of its own for each file: no connection, cookie or proxy setting is carried from one caller to the next.
    connector = aiohttp.TCPConnector(socket_factory=make_socket, force_close=True)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_HEADERS,
        auto_decompress=False,
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None),
    )


async def _download(session: aiohttp.ClientSession, url: str, spool: UploadFile, max_bytes: int) -> None:
    target = _checked(URL(url))
    for _ in range(MAX_REDIRECTS + 1):
        async with session.get(target, allow_redirects=False) as response:
            if response.status in _REDIRECTS and "location" in response.headers:
                target = _checked(target.join(URL(response.headers["location"])))
                continue
            if response.status != 200:
                raise _refusal(f"was answered with status {response.status}")
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise _refusal("was answered with compressed content")
            if (response.content_length or 0) > max_bytes:
                raise _too_large(max_bytes)
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                await spool.write(chunk)
                if (spool.size or 0) > max_bytes:
                    raise _too_large(max_bytes)
            if not spool.size:
                raise _refusal("leads to an empty file")
            return
    raise _refusal(f"was redirected more than {MAX_REDIRECTS} times")


def _checked(url: URL) -> URL:
    if url.scheme not in ("http", "https") or not url.host:
        raise _refusal("must be an http or https address with a host")
    return url


def _reason(error: Exception) -> str:
    """What a client may know of a failed connection; not what there is behind the name."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "names a host that is not known"
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, _AddressRefused):
        return "leads to an address that is not public"
    if isinstance(error, aiohttp.InvalidURL | ValueError):
        return "is no valid address"
    return "could not be fetched"


def _refusal(problem: str) -> InvalidRequest:
    return InvalidRequest(f"'url' {problem}.", param="url")


def _too_large(max_bytes: int) -> InvalidRequest:
    return _refusal(f"leads to more than {max_bytes} bytes")
