"""Images by URL: which addresses are asked, and what is read from them."""

import base64
import http.server
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from oneclip.errors import ConfigError
from oneclip.serve import image_inputs
from oneclip.serve.app import create_app
from oneclip.serve.public_addresses import is_public_address
from oneclip.serve.settings import ServeSettings
from oneclip.serve.url_images import ImageUrlError, UrlFetcher

NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "100.127.255.255", "127.0.0.1", "127.8.8.8",
    "169.254.169.254", "168.63.129.16", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1",
    "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250",
    "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:8.8.8.8",
    "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a00:1", "100::1", "2001::1", "2001:0:7f00:1::", "2001:10::1",
    "2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1",
    "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1", "localhost", "127.1", "0x7f000001", "",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.0.1.1",
    "2001:4860:4860::8888", "2606:4700:4700::1111", "2a00:1450:4001:80b::200e",
]  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_of_the_public_internet_is_refused(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_public_internet_is_accepted(address: str) -> None:
    assert is_public_address(address)


@dataclass
class Site:
    """A web server on this machine, and what it was asked.

    Attributes:
        answers: for each path, a function that answers.
        requests: headers of the requests so far, with the path as "path".
    """

    port: int = 0
    answers: dict[str, Callable[[http.server.BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    requests: list[dict[str, str]] = field(default_factory=list)

    def serve(self, path: str, body: bytes, status: int = 200, **headers: str) -> None:
        """Answer a path with a body."""

        def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(body)

        self.answers[path] = answer

    def redirect(self, path: str, to: str) -> None:
        """Redirect a path."""
        self.serve(path, b"", 302, Location=to)


def start(site: Site, exits: ExitStack, tls: ssl.SSLContext | None = None) -> Site:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests.append(dict(self.headers) | {"path": self.path})
            site.answers[self.path](self)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    site.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    exits.callback(server.server_close)
    exits.callback(server.shutdown)
    return site


@pytest.fixture
def exits() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def site(exits: ExitStack) -> Site:
    return start(Site(), exits)


def here(host: str, port: int) -> list[str]:
    """Resolve every name to this machine."""
    return ["127.0.0.1"]


def fetcher(*allowed: str, max_bytes: int = 10_000, timeout: float = 60, **options: Any) -> UrlFetcher:
    """Make a fetcher that may ask this machine."""
    options = {"resolve": here, "is_allowed": lambda address: True} | options
    return UrlFetcher(allowed, max_bytes, timeout, **options)


def local(site: Site, path: str = "/cat.png") -> tuple[str, str]:
    """Return a rule and a URL of a site that calls itself images.test."""
    return f"images.test:{site.port}", f"http://images.test:{site.port}{path}"


def test_an_image_is_fetched_from_an_allowed_host(site: Site) -> None:
    rule, url = local(site)
    site.serve("/cat.png", b"the image")
    assert fetcher(rule).fetch(url) == b"the image"
    assert site.requests[0]["Host"] == rule


def test_path_and_query_are_sent_as_ascii(site: Site) -> None:
    rule, url = local(site, "/b%C3%BCcher/katze%201.png?w=1&h=%26")
    site.serve("/b%C3%BCcher/katze%201.png?w=1&h=%26", b"1")
    assert fetcher(rule).fetch(url.replace("%C3%BC", "ü").replace("%201", " 1")) == b"1"


def test_a_host_in_capitals_with_a_final_dot_is_the_same_host(site: Site) -> None:
    site.serve("/", b"1")
    assert fetcher(f"images.test:{site.port}").fetch(f"HTTP://Images.TEST.:{site.port}") == b"1"


@pytest.mark.parametrize(
    ("rule", "url", "is_allowed"),
    [
        ("*", "http://a.test/x", True),
        ("*", "https://a.test/x", True),
        ("*", "http://a.test:443/x", True),
        ("*", "http://a.test:8080/x", False),
        ("*:8080", "http://a.test:8080/x", True),
        ("a.test", "http://a.test/x", True),
        ("a.test", "http://b.a.test/x", False),
        ("a.test", "http://a.test.b.test/x", False),
        ("a.test", "http://a.test:22/x", False),
        ("a.test:22", "http://a.test:22/x", True),
        ("a.test:22", "http://a.test/x", False),
        ("[2606:4700:4700::1111]", "http://[2606:4700:4700::1111]/x", True),
        ("bücher.test", "http://xn--bcher-kva.test/x", True),
        ("xn--bcher-kva.test", "http://bücher.test/x", True),
    ],
)
def test_hosts_and_ports_are_those_of_the_rules(rule: str, url: str, is_allowed: bool) -> None:
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return []

    with pytest.raises(ImageUrlError):
        fetcher(rule, resolve=resolve).fetch(url)
    assert bool(asked) == is_allowed


@pytest.mark.parametrize(
    "rule", ["", "a.test:port", "https://a.test", "a.test/images", "user@a.test", "a..b"]
)
def test_what_is_not_a_host_is_no_rule(rule: str) -> None:
    with pytest.raises(ConfigError, match="is not a host"):
        fetcher(rule)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "begin with file:"),
        ("ftp://a.test/x", "begin with ftp:"),
        ("gopher://a.test/x", "begin with gopher:"),
        ("http:///x", "names no host"),
        ("http://user:secret@a.test/x", "user name or a password"),
        ("http://@a.test/x", "user name or a password"),
        ("http://a.test:99999/x", "is not a URL"),
        ("http://a.test:port/x", "is not a URL"),
        ("http://[::1/x", "is not a URL"),
        ("http://a..test/x", "is not a URL"),
        ("http://" + "a" * 64 + ".test/x", "is not a URL"),
        ("http://a.test/" + "x" * 9000, "characters"),
    ],
)
def test_a_url_of_another_kind_is_refused(url: str, message: str) -> None:
    with pytest.raises(ImageUrlError, match=message):
        fetcher("*").fetch(url)


def test_without_allowed_hosts_the_error_says_how_to_allow_one() -> None:
    with pytest.raises(ImageUrlError, match=r"--allow-urls a\.test"):
        fetcher().fetch("https://a.test/x")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_no_spelling_of_this_machine_is_asked(site: Site, host: str) -> None:
    site.serve("/x", b"secret")
    with pytest.raises(ImageUrlError, match="not public"):
        UrlFetcher([f"{host}:{site.port}", f"*:{site.port}"], 100, 60).fetch(f"http://{host}:{site.port}/x")
    assert not site.requests


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "[::1]"])
def test_no_option_is_recommended_that_would_not_help(host: str) -> None:
    with pytest.raises(ImageUrlError, match="not public") as caught:
        UrlFetcher(["*"], 100, 60).fetch(f"http://{host}:8000/x")
    assert "--allow-urls" not in str(caught.value)


def test_a_host_is_refused_if_one_of_its_addresses_is_not_public(site: Site) -> None:
    rule, url = local(site)

    def resolve(host: str, port: int) -> list[str]:
        return ["8.8.8.8", "127.0.0.1"]

    with pytest.raises(ImageUrlError, match="not public"):
        fetcher(rule, resolve=resolve, is_allowed=is_public_address).fetch(url)
    assert not site.requests


def test_the_connection_is_made_to_the_address_that_was_checked(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, url = local(site)
    site.serve("/cat.png", b"1")
    resolved: list[str] = []
    connected: list[Any] = []
    connect = socket.create_connection

    def resolve(host: str, port: int) -> list[str]:
        resolved.append(host)
        return ["127.0.0.1"]

    def create_connection(address: Any, *options: Any) -> socket.socket:
        connected.append(address)
        return connect(address, *options)

    monkeypatch.setattr(socket, "create_connection", create_connection)
    fetcher(rule, resolve=resolve).fetch(url)
    assert (resolved, connected) == (["images.test"], [("127.0.0.1", site.port)])


def test_proxies_of_the_environment_are_not_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, url = local(site)
    site.serve("/cat.png", b"1")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetcher(rule).fetch(url) == b"1"


def test_the_second_address_is_asked_if_the_first_does_not_answer(site: Site) -> None:
    rule, url = local(site)
    site.serve("/cat.png", b"1")

    def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]  # the site listens on the second alone

    assert fetcher(rule, resolve=resolve).fetch(url) == b"1"


def test_three_redirects_are_followed(site: Site) -> None:
    rule, url = local(site, "/1")
    for path, to in (("/1", "/2"), ("/2", local(site, "/3")[1]), ("/3", "/4")):
        site.redirect(path, to)
    site.serve("/4", b"the image")
    assert fetcher(rule).fetch(url) == b"the image"


def test_a_fourth_redirect_is_not_followed(site: Site) -> None:
    rule, url = local(site, "/1")
    for path, to in (("/1", "/2"), ("/2", "/3"), ("/3", "/4"), ("/4", "/5")):
        site.redirect(path, to)
    with pytest.raises(ImageUrlError, match="more than 3 redirects"):
        fetcher(rule).fetch(url)


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "http://other.test/x", "http://u:p@images.test/x", "//other.test/x"]
)
def test_a_redirect_to_what_is_not_allowed_is_refused(site: Site, target: str) -> None:
    rule, url = local(site)
    site.redirect("/cat.png", target)
    with pytest.raises(ImageUrlError):
        fetcher(rule, "images.test").fetch(url)
    assert len(site.requests) == 1


def test_a_redirect_to_an_address_that_is_not_public_is_refused(site: Site) -> None:
    _, url = local(site)
    site.redirect("/cat.png", f"http://internal.test:{site.port}/secret")
    site.serve("/secret", b"secret")
    addresses = {"images.test": "127.0.0.1", "internal.test": "10.0.0.1"}
    with pytest.raises(ImageUrlError, match=r"internal\.test .*not public"):
        fetcher(
            f"*:{site.port}",
            resolve=lambda host, port: [addresses[host]],
            is_allowed=lambda address: address != "10.0.0.1",
        ).fetch(url)
    assert [request["path"] for request in site.requests] == ["/cat.png"]


def test_an_image_with_more_bytes_than_allowed_is_not_read(site: Site) -> None:
    rule, url = local(site)
    site.serve("/cat.png", b"x" * 10_001)
    with pytest.raises(ImageUrlError, match="10000 bytes"):
        fetcher(rule).fetch(url)


def test_an_image_of_unknown_length_is_read_up_to_the_limit_only(site: Site) -> None:
    rule, url = local(site)
    is_closed = threading.Event()

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            is_closed.set()

    site.answers["/cat.png"] = answer
    with pytest.raises(ImageUrlError, match="10000 bytes"):
        fetcher(rule).fetch(url)
    assert is_closed.wait(60)


def test_the_limit_of_bytes_is_for_all_images_of_a_request_together(site: Site) -> None:
    rule, url = local(site)
    site.serve("/cat.png", b"x" * 6000)
    both = fetcher(rule)
    both.fetch(url)
    with pytest.raises(ImageUrlError, match="10000 bytes"):
        both.fetch(url)


@pytest.mark.parametrize("part", ["header", "body"])
def test_a_host_that_sends_a_byte_at_a_time_is_cut_off_at_the_time_limit(site: Site, part: str) -> None:
    rule, url = local(site)
    is_cut_off = threading.Event()

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"X-Slow: " if part == "header" else b"\r\n"))
        try:
            while not is_cut_off.is_set():
                handler.wfile.write(b"x")
                time.sleep(0.01)
        except OSError:
            is_cut_off.set()

    site.answers["/cat.png"] = answer
    with pytest.raises(ImageUrlError, match=r"images\.test did not answer within 0\.3 seconds"):
        fetcher(rule, max_bytes=10**9, timeout=0.3).fetch(url)
    assert not site.requests or is_cut_off.wait(60)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "^the host answered 404"),
        (b"HTTP/1.0 302 Found\r\n\r\n", "answered 302"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nabc", "2 bytes before the end"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "cannot be read"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "cannot be read"),
        (b"SSH-2.0-OpenSSH\r\n", "cannot be read"),
        (b"HTTP/1.0 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_an_answer_that_is_no_image_is_an_error(site: Site, answer: bytes, message: str) -> None:
    rule, url = local(site)
    site.answers["/cat.png"] = lambda handler: handler.wfile.write(answer) and None
    with pytest.raises(ImageUrlError, match=message):
        fetcher(rule).fetch(url)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate of images.test and its key, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the command openssl")
    folder = tmp_path_factory.mktemp("certificate")
    made = [str(folder / "key.pem"), str(folder / "certificate.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=images.test", "-addext", "subjectAltName=DNS:images.test", "-keyout", made[0], "-out", made[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_text("".join(Path(path).read_text() for path in made))
    return both


@pytest.fixture
def secure_site(certificate: Path, exits: ExitStack) -> Site:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    site = start(Site(), exits, tls)
    site.serve("/cat.png", b"the image")
    return site


def test_the_certificate_of_a_host_is_verified_for_its_name(secure_site: Site, certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    secure = fetcher(f"*:{secure_site.port}", tls=trusting)
    assert secure.fetch(f"https://images.test:{secure_site.port}/cat.png") == b"the image"
    with pytest.raises(ImageUrlError, match=r"certificate of other\.test is not valid"):
        secure.fetch(f"https://other.test:{secure_site.port}/cat.png")


def test_a_certificate_that_nobody_vouches_for_is_refused(secure_site: Site) -> None:
    with pytest.raises(ImageUrlError, match=r"certificate of .* is not valid"):
        fetcher(f"*:{secure_site.port}").fetch(f"https://images.test:{secure_site.port}/cat.png")


@pytest.fixture
def fetching(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start an application that may fetch images from the site, and provide a client of it."""
    testclient = pytest.importorskip("starlette.testclient")
    monkeypatch.setattr(image_inputs, "UrlFetcher", partial(UrlFetcher, is_allowed=lambda address: True))
    app = create_app(ServeSettings(allow_urls=(f"localhost:{site.port}",)))
    with testclient.TestClient(app, base_url="http://localhost") as client:
        yield client


def test_a_request_with_urls_is_answered_with_embeddings_and_the_item_that_is_wrong(
    site: Site, fetching: Any, images: dict[str, bytes], encoder: Any
) -> None:
    site.serve("/cat.png", images["cat"])
    url = f"http://localhost:{site.port}/cat.png"
    good = fetching.post("/v1/embeddings", json={"input": [{"image": f" {url}\n"}, "a cat"]})
    bad = fetching.post(
        "/v1/embeddings", json={"input": ["a cat", {"image_url": {"url": "http://other.test/x"}}]}
    )
    assert good.json()["data"][0]["embedding"] == pytest.approx(
        encoder.encode_images(images["cat"])[0], abs=1e-5
    )
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "invalid_image_url")
    assert bad.json()["error"]["param"] == "input[1]"


def test_slow_hosts_delay_no_other_request(site: Site, fetching: Any, images: dict[str, bytes]) -> None:
    slow_requests, may_answer = 10, threading.Event()

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        may_answer.wait(60)
        handler.send_error(404)

    site.answers["/slow.png"] = answer
    slow = {"input": [{"image": f"http://localhost:{site.port}/slow.png"}]}
    quick = {"input": [{"image": base64.b64encode(images["cat"]).decode()}, "a cat"]}
    with ThreadPoolExecutor(slow_requests) as clients:
        waiting = [clients.submit(fetching.post, "/v1/embeddings", json=slow) for _ in range(slow_requests)]
        until = time.monotonic() + 10
        while len(site.requests) < slow_requests and time.monotonic() < until:
            time.sleep(0.01)
        try:
            assert fetching.post("/v1/embeddings", json=quick).status_code == 200
        finally:
            may_answer.set()
    assert {request.result().status_code for request in waiting} <= {400, 504}


def test_a_rule_that_is_no_host_is_refused_before_the_start() -> None:
    with pytest.raises(ConfigError, match="expected HOST or HOST:PORT"):
        ServeSettings(allow_urls=("https://example.com/images",))
