"""`oneclip serve`: embeddings, classification and search over HTTP, and a page to look at."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Annotated

import typer

from oneclip.cli import options
from oneclip.cli.exits import echo_stderr
from oneclip.cli.search import IndexModelOption, IndexPrecisionOption
from oneclip.errors import MissingExtraError

ENVIRONMENT_PREFIX = "ONECLIP_SERVE"
ACCESS, LIMITS = "Who may call", "Limits"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]I?)?B?", re.IGNORECASE)


def _parse_size(text: str) -> int:
    """Return the bytes of a size such as 32MB, 1.5GiB or 4096."""
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * _UNITS[(found[2] or "").upper()]) if found else 0
    if size < 1:
        raise typer.BadParameter(f"{text!r} is not a size; expected one such as 32MB")
    return size


def serve(
    model: IndexModelOption = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(
            "--alias", metavar="NAME", help="Another name by which clients may ask for the model; repeatable."
        ),
    ] = None,
    precision: IndexPrecisionOption = None,
    device: options.DeviceOption = None,
    index: Annotated[
        list[str] | None,
        typer.Option(
            "--index",
            metavar="PATH",
            help="Index to search, or a folder of images, whose index is made and kept up to date; repeatable.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on; 0.0.0.0 for all.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, metavar="N", help="Port; 0 for any free one.")
    ] = 7997,
    workers: Annotated[
        int, typer.Option("--workers", min=1, metavar="N", help="Processes; each loads the model.")
    ] = 1,
    no_page: Annotated[bool, typer.Option("--no-page", help="Do not serve the page at /.")] = False,
    api_key_file: Annotated[
        str | None,
        typer.Option(
            "--api-key-file",
            metavar="FILE",
            help="File with an API key on each line; SIGHUP reads it again.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    no_auth: Annotated[
        bool,
        typer.Option("--no-auth", help="Let other machines call without a key.", rich_help_panel=ACCESS),
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Another name of this server, such as that of a proxy before it; repeatable.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            "--cors",
            metavar="ORIGIN",
            help="Origin whose pages may call, such as https://example.com; repeatable; * for all.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    allow_urls: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-urls",
            metavar="HOST",
            help="Host from which images are fetched by URL; repeatable; * for all public ones.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    max_batch: Annotated[
        int,
        typer.Option(
            "--max-batch",
            min=1,
            metavar="N",
            help="Images or texts that go through the model at once.",
            rich_help_panel=LIMITS,
        ),
    ] = 32,
    max_wait_ms: Annotated[
        float,
        typer.Option(
            "--max-wait-ms",
            min=0,
            metavar="MS",
            help="Milliseconds that a batch waits for images that are being decoded.",
            rich_help_panel=LIMITS,
        ),
    ] = 5.0,
    max_queue: Annotated[
        int,
        typer.Option(
            "--max-queue",
            min=1,
            metavar="N",
            help="Images and texts that may wait; more are refused with 429.",
            rich_help_panel=LIMITS,
        ),
    ] = 1024,
    max_body: Annotated[
        int,
        typer.Option(
            "--max-body",
            parser=_parse_size,
            metavar="SIZE",
            help="Largest body of a request.",
            rich_help_panel=LIMITS,
        ),
    ] = "32MB",  # type: ignore[assignment]  # typer parses it
    max_pixels: options.MaxPixelsOption = None,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            min=0.1,
            metavar="SECONDS",
            help="Time for a request, and for those in progress when the server stops.",
            rich_help_panel=LIMITS,
        ),
    ] = 30.0,
) -> None:
    """Serve embeddings, classification and search over HTTP.

    There is a page to look at, too. Clients of OpenAI, Cohere and Immich work unchanged; /docs lists all routes.
    SIGTERM and Ctrl-C answer what was accepted, then stop. Lists in environment variables are separated by spaces.

    \b
    Examples:
      oneclip serve
      oneclip serve -m ViT-B-32-256:datacomp_s34b_b86k --index ~/Photos
      oneclip serve --host 0.0.0.0 --api-key-file keys.txt --max-body 64MB
    """
    if model is not None:
        options.check_model(model)
    for package in ("fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client", "orjson"):
        if find_spec(package) is None:
            raise MissingExtraError("`oneclip serve`", "serve")
    from oneclip.serve.server import serve as run_server
    from oneclip.serve.settings import ServeSettings

    settings = ServeSettings(
        model=model,
        aliases=tuple(alias or ()),
        precision=None if precision is None else precision.value,
        device=device,
        index=tuple(index or ()),
        host=host,
        port=port,
        api_key_file=api_key_file,
        auth=not no_auth,
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        max_queue=max_queue,
        max_body=max_body,
        max_pixels=max_pixels,
        timeout=timeout,
        cors=tuple(cors or ()),
        allow_urls=tuple(allow_urls or ()),
        allow_hosts=tuple(allow_host or ()),
        workers=workers,
        page=not no_page,
    )
    run_server(settings, announce=echo_stderr)
