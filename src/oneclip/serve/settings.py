"""Settings of the server, which all of its processes read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from oneclip.config.base import BaseCfg
from oneclip.errors import ConfigError
from oneclip.serve.url_images import parse_rule

# as browsers write it: in lower case, without a path
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9._\[\]:-]+")
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class ServeSettings(BaseCfg):
    """Settings of `oneclip serve`.

    Attributes:
        model: name or path of the model; None for that of the index, or "pocket" without one.
        aliases: other names by which clients may ask for the model.
        precision: of the model, see `oneclip.load`; None for that of the index, or "fp32" without one.
        device: of the model, see `oneclip.load`.
        index: indexes, or folders of images, to search.
        host: address to listen on.
        port: likewise; 0 for any free one.
        api_key_file: file with an API key on each line; None for no keys.
        auth: whether a host other than loopback needs keys.
        max_batch: images or texts that go through the model at once.
        max_wait_ms: milliseconds that a batch waits for items that are being decoded.
        max_queue: items that may wait; further requests are refused with 429.
        max_body: bytes of the body of a request.
        max_pixels: images with more pixels are refused; None for the limit of `oneclip.image.open_image`.
        timeout: seconds for one request, and for what is in progress when the server stops.
        cors: origins whose pages may call the server; "*" for all.
        allow_urls: hosts from which images are fetched by URL; "*" for all public ones.
        allow_hosts: further names of this server, for the check of the header Host.
        workers: processes.
        page: whether to serve the page at /.
    """

    model: str | None = None
    aliases: tuple[str, ...] = ()
    precision: str | None = None
    device: str | None = None
    index: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 7997
    api_key_file: str | None = None
    auth: bool = True
    max_batch: int = 32
    max_wait_ms: float = 5.0
    max_queue: int = 1024
    max_body: int = 32_000_000
    max_pixels: int | None = None
    timeout: float = 30.0
    cors: tuple[str, ...] = ()
    allow_urls: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    workers: int = 1
    page: bool = True

    def __post_init__(self) -> None:
        self.check_types()
        for name in ("max_batch", "max_queue", "max_body", "timeout", "workers"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a number above 0")
        if self.max_wait_ms < 0:
            raise ConfigError(f"max_wait_ms is {self.max_wait_ms}; expected 0 or more")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}; expected a number from 0 to 65535")
        for host in self.allow_urls:
            parse_rule(host)
        for origin in self.cors:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"{origin!r} is not the origin of a page (cors, --cors); expected scheme and host in lower case, "
                    "as in 'https://example.com', or '*' for all"
                )
        for host in self.allow_hosts:
            if not _HOST_NAME.fullmatch(host):
                raise ConfigError(
                    f"{host!r} is not a name of this server (allow_hosts, --allow-host); expected a host without "
                    "scheme and port, as in 'photos.example.com'"
                )
        if self.auth and self.api_key_file is None and not is_loopback(self.host):
            raise ConfigError(
                f"host {self.host!r} can be reached from other machines, and there are no keys: name a file of keys "
                "(api_key_file, --api-key-file), or allow everyone (auth=False, --no-auth)"
            )


def is_loopback(host: str) -> bool:
    """Return whether only programs on this machine can reach an address or name of a host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
