"""`url` in place of a file: fetched within limits, and never from the network that the service is in."""

import asyncio
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from deployments.exceptions import InvalidAudio, InvalidRequest
from deployments.ingress.fetch import MAX_REDIRECTS, AddressInfo, fetch, is_public, public_socket
from tests.api.fakes import AUDIO, Service, error_of

NOT_PUBLIC = "'url' leads to an address that is not public."


class Site:
    """A web server on the loopback interface, with what it was asked for."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        match request.path:
            case "/a.wav":
                return web.Response(body=AUDIO)
            case "/large":
                return web.Response(body=b"x" * 3_000_000)
            case "/chunked":
                response = web.StreamResponse()
                response.enable_chunked_encoding()
                await response.prepare(request)
                for _ in range(3):
                    await response.write(b"x" * 1_000_000)
                return response
            case "/slow":
                await asyncio.Event().wait()
            case "/to":
                raise web.HTTPFound(request.query["url"])
            case "/loop":
                raise web.HTTPTemporaryRedirect("/loop")
            case "/nowhere":
                return web.Response(status=302)
            case "/gzip":
                return web.Response(body=AUDIO, headers={"content-encoding": "gzip"})
            case "/empty":
                return web.Response()
            case "/cut":
                response = web.StreamResponse(headers={"content-length": "100"})
                await response.prepare(request)
                await response.write(b"x")
                assert request.transport is not None
                request.transport.close()
                return response
        return web.Response(status=404)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    runner = web.ServerRunner(web.Server(site.answer), shutdown_timeout=0.1)  # type: ignore[arg-type]
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await web.SockSite(runner, listener).start()
        site.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield site
        await runner.cleanup()


def only(site: Site) -> Any:
    """Opens connections to this site, and otherwise to the public internet alone."""

    def make_socket(address: AddressInfo) -> socket.socket:
        host, port, *_ = address[4]
        if f"http://{host}:{port}" == site.url:
            return socket.socket(*address[:3])
        return public_socket(address)

    return make_socket


async def get(site: Site, path: str, *, max_bytes: int = 1_000_000, timeout_s: float = 5) -> bytes:
    async with fetch(site.url + path, max_bytes=max_bytes, timeout_s=timeout_s, make_socket=only(site)) as file:
        return file.read()


async def test_a_file(site: Site) -> None:
    assert await get(site, "/a.wav") == AUDIO
    [request] = site.requests
    assert request.method == "GET"
    assert request.headers["accept-encoding"] == "identity"
    assert "cookie" not in request.headers


@pytest.mark.parametrize("path", ["/large", "/chunked"])
async def test_a_file_is_spooled_to_disk_and_deleted(site: Site, path: str) -> None:
    async with fetch(site.url + path, max_bytes=3_000_000, timeout_s=5, make_socket=only(site)) as file:
        assert len(file.read()) == 3_000_000
    assert file.closed


async def test_a_redirect_is_followed(site: Site) -> None:
    assert await get(site, "/to?url=/a.wav") == AUDIO
    assert await get(site, f"/to?url={site.url}/a.wav") == AUDIO


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/missing", "'url' was answered with status 404."),
        ("/nowhere", "'url' was answered with status 302."),
        ("/large", "'url' leads to more than 1000000 bytes."),
        ("/chunked", "'url' leads to more than 1000000 bytes."),
        ("/loop", f"'url' was redirected more than {MAX_REDIRECTS} times."),
        ("/gzip", "'url' was answered with compressed content."),
        ("/empty", "'url' leads to an empty file."),
        ("/cut", "'url' could not be fetched."),
        ("/to?url=file:///etc/passwd", "'url' must be an http or https address with a host."),
        ("/to?url=http://127.0.0.1:1/", NOT_PUBLIC),
        ("/to?url=http://169.254.169.254/latest/meta-data/", NOT_PUBLIC),
        ("/to?url=//10.0.0.1/", NOT_PUBLIC),
        ("/to?url=http://[::ffff:10.0.0.1]/", NOT_PUBLIC),
    ],
)
async def test_what_cannot_be_had(site: Site, url: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await get(site, url)
    assert (caught.value.message, caught.value.param) == (message, "url")


async def test_a_site_that_does_not_answer(site: Site) -> None:
    with pytest.raises(InvalidRequest, match=r"'url' could not be fetched within 0\.05 seconds\."):
        await get(site, "/slow", timeout_s=0.05)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "127.1", "0.0.0.0", "2130706433", "0x7f000001", "10.1.2.3", "172.16.0.1"),
        *("192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1"),
        *("[::1]", "[::]", "[fe80::1]", "[fc00::1]", "[ff02::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]"),
        *("[2002:7f00:1::]", "[2001:db8::1]", "[fec0::1]", "[feff::1]", "[::ffff:192.0.0.192]"),
        *("192.0.0.8", "192.0.0.192", "168.63.129.16"),
    ],
)
async def test_addresses_that_are_not_public(site: Site, host: str) -> None:
    """Whatever way they are written: what counts is the address that the connection would go to."""
    port = site.url.rpartition(":")[2]
    with pytest.raises(InvalidRequest) as caught:
        async with fetch(f"http://{host}:{port}/a.wav", max_bytes=100, timeout_s=5):
            pass
    # Some of these are valid to some resolvers only.
    refusals = ("is no valid address", "names a host that is not known", "could not be fetched")
    assert caught.value.message in (NOT_PUBLIC, *(f"'url' {refusal}." for refusal in refusals))
    assert not site.requests


async def test_a_name_that_resolves_to_another_address_than_when_it_was_checked(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(site.url.rpartition(":")[2])

    async def resolve(*_: object, **__: object) -> list:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    with pytest.raises(InvalidRequest) as caught:
        async with fetch(f"http://rebinding.example:{port}/a.wav", max_bytes=100, timeout_s=5):
            pass
    assert caught.value.message == NOT_PUBLIC
    assert not site.requests


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)
    public_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))).close()


@pytest.mark.parametrize(
    "url",
    [
        *("", "a.wav", "/a.wav", "ftp://example.com/a", "file:///etc/passwd", "http://", "http:///a"),
        *("data:audio/wav,x", "javascript:alert(1)", "http://[::1", "http://a b/", "http://example.com:99999/"),
        *("http://\x00/", "http://\udcff/"),
    ],
)
async def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        async with fetch(url, max_bytes=100, timeout_s=5):
            pass
    assert caught.value.param == "url"


@pytest.fixture
def service(site: Site) -> Service:
    service = Service(url_input=True)
    service.app = service.build(fetch=partial(fetch, make_socket=only(site)))
    return service


async def transcribe(service: Service, **fields: str) -> Any:
    return await service.post_form({"model": service.model.id, **fields})


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_a_request_with_a_url(service: Service, site: Site, stream: str) -> None:
    response = await transcribe(service, url=f"{site.url}/a.wav", stream=stream)
    assert response.status_code == 200
    assert service.decoder.contents == [AUDIO]
    assert service.decoder.sources[0].closed


async def test_a_request_with_a_url_that_fails(service: Service, site: Site) -> None:
    response = await transcribe(service, url=f"{site.url}/missing")
    assert response.status_code == 400
    assert error_of(response) == {
        "message": "'url' was answered with status 404.",
        "type": "invalid_request_error",
        "param": "url",
        "code": "invalid_value",
    }
    assert service.untouched


async def test_what_is_wrong_with_the_recording_is_said_of_its_url(service: Service, site: Site) -> None:
    service.decoder.error = InvalidAudio("There is no audio in it.")
    error = error_of(await transcribe(service, url=f"{site.url}/a.wav"))
    assert (error["message"], error["param"]) == ("There is no audio in it.", "url")


async def test_either_file_or_url(service: Service, site: Site) -> None:
    response = await service.transcribe(url=f"{site.url}/a.wav")
    assert error_of(response)["message"] == "Send either 'file' or 'url', not both."
    response = await transcribe(service)
    assert error_of(response)["param"] == "file"
    response = await transcribe(service, url="http://x/" + "a" * 2048)
    assert error_of(response)["param"] == "url"
    assert not site.requests


async def test_every_field_is_checked_before_anything_is_fetched(service: Service, site: Site) -> None:
    response = await transcribe(service, url=f"{site.url}/a.wav", temperature="2")
    assert error_of(response)["param"] == "temperature"
    assert not site.requests


async def test_the_limit_of_uploads_holds_for_what_is_fetched(site: Site) -> None:
    service = Service(url_input=True, max_upload_bytes=1_000_000)
    service.app = service.build(fetch=partial(fetch, make_socket=only(site)))
    response = await transcribe(service, url=f"{site.url}/large")
    assert error_of(response)["message"] == "'url' leads to more than 1000000 bytes."


async def test_the_real_fetcher_guards_the_network(site: Site) -> None:
    response = await transcribe(Service(url_input=True), url=f"{site.url}/a.wav")
    assert error_of(response)["message"] == NOT_PUBLIC
    assert not site.requests


async def test_off_by_default(site: Site) -> None:
    response = await transcribe(Service(), url=f"{site.url}/a.wav")
    error = error_of(response)
    assert (error["param"], error["code"]) == ("url", "unsupported_value")
    assert not site.requests
