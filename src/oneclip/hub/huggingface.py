"""A file of a repository on the Hugging Face hub to a path in the hub's cache, whole and verified."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from oneclip._version import __version__
from oneclip.errors import ChecksumError, DownloadError, OfflineError, OneCLIPError
from oneclip.hub.cache import PULL_HINT, SWITCHED_OFF, offline, sha256_of, writing

HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""The usual names of weights in a repository, the safer first."""

ATTEMPTS = 3  # at a file whose connection broke


def hub_file(
    repo: str,
    names: str | Sequence[str] = HUB_WEIGHTS,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Fetch a file of a repository on the Hugging Face hub, or find it in the hub's cache.

    The hub's own client does it: with its cache, its token, its endpoint (HF_ENDPOINT) and its resumption of dropped
    connections. It checks sizes only; what it fetched is compared here with the checksum that the hub gives.

    Args:
        repo: `owner/name`.
        names: the file, or several of which the first that exists is taken; those that the repository lacked when it
            was last asked are tried last.
        subfolder: folder of the repository that holds it.
        revision: branch, tag or commit.
        cache_dir: where to keep it, instead of the hub's usual cache.

    Raises:
        OfflineError: if it is not there and the network is switched off.
        ChecksumError: if what came is not what the hub has; it is deleted.
        DownloadError: if it does not exist, may not be read, or cannot be fetched.
        OutputError: if it cannot be written.
    """
    names = [names] if isinstance(names, str) else list(names)
    if found := find_hub_file(repo, names, subfolder=subfolder, revision=revision, cache_dir=cache_dir):
        return found
    here, wanted = _address(repo, subfolder, revision), " or ".join(names)
    if offline():
        raise OfflineError(f"{wanted} of {here} is not on this machine and {SWITCHED_OFF}. {PULL_HINT}")
    raise DownloadError(f"{here} has no {wanted}")


def hub_files(
    repo: str,
    names: Sequence[str],
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Path]:
    """Fetch those files that a repository has; without a network, those that are here.

    The other arguments and errors are those of `hub_file`, but that a missing file is none.

    Returns:
        name to path.
    """
    where = {"subfolder": subfolder, "revision": revision, "cache_dir": cache_dir}
    found = ((name, find_hub_file(repo, [name], **where)) for name in names)  # type: ignore[arg-type]
    return {name: path for name, path in found if path}


def find_hub_file(
    repo: str,
    names: Sequence[str],
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path | None:
    """`hub_file`, but None where the repository has no such file, or none is here while the network is off."""
    from huggingface_hub import errors

    here = _address(repo, subfolder, revision)
    with _translated(here):
        cached = {name: _cached(repo, name, subfolder, revision, cache_dir) for name in names}
    if offline():
        return next((path for path in cached.values() if path), None)
    for name in sorted(names, key=lambda name: cached[name] is False):
        path_there = f"{subfolder}/{name}" if subfolder else name
        if cached[name] is False and not _has_come(repo, path_there, revision):
            continue
        with _translated(f"{name} of {here}"), writing(name):
            try:
                path = _download(repo, path_there, revision, cache_dir)
            except errors.LocalEntryNotFoundError:  # not in the cache, and the network fails
                raise
            except errors.EntryNotFoundError:
                continue
            before = cached[name]
            if not before or path.resolve() != before.resolve():
                _verify(path, path_there, repo, revision)
            return path
    return None


def _download(repo: str, path: str, revision: str | None, cache_dir: str | os.PathLike[str] | None) -> Path:
    """Have the client fetch a file; again where the connection broke in the middle and it gave up.

    From release to release it differs in what it goes on after by itself, and from where.
    """
    from huggingface_hub import errors, hf_hub_download

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return Path(
                hf_hub_download(
                    repo,
                    path,
                    revision=revision,
                    cache_dir=Path(cache_dir) if cache_dir else None,
                    library_name="oneclip",
                    library_version=__version__,
                )
            )
        except (errors.HfHubHTTPError, errors.EntryNotFoundError):  # the hub's answer, or none at all
            raise
        except _network_errors() as error:
            of_network = getattr(error, "errno", None) is None or isinstance(
                error, (ConnectionError, TimeoutError)
            )
            if attempt == ATTEMPTS or not of_network:
                raise
    raise AssertionError("an attempt either returns or raises")


def _has_come(repo: str, path: str, revision: str | None) -> bool:
    """Whether a repository has a file by now that it lacked; what cannot be reached has not.

    Asked for by itself: for a file that is not in the cache, the client keeps on trying for half a minute where there
    is no network.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(repo, path, revision=revision))
    except _network_errors():
        return False
    return True


def _verify(path: Path, name: str, repo: str, revision: str | None) -> None:
    """Compare a file that has just come with its checksum, and delete it if it is another one.

    Large files have their sha256 as ETag, by which the cache names them; where the cache has no links, the hub is
    asked again. Small ones have the name that git gives them: they are not checked.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    blob = path.resolve()
    etag = (
        blob.name
        if path.is_symlink()
        else get_hf_file_metadata(hf_hub_url(repo, name, revision=revision)).etag
    )
    if not etag or not re.fullmatch(r"[0-9a-f]{64}", etag):
        return
    found = sha256_of(blob)
    if found != etag:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise ChecksumError(
            f"{name} of {_address(repo, None, revision)} came with the sha256 {found}, and the hub has {etag}; it was "
            "deleted. Try again, or from another network: something on the way changes it"
        )


def _address(repo: str, subfolder: str | None, revision: str | None) -> str:
    """A repository as messages name it."""
    return f"hf-hub:{repo}" + (f"/{subfolder}" if subfolder else "") + (f"@{revision}" if revision else "")


def hub_file_here(
    repo: str,
    names: str | Sequence[str] = HUB_WEIGHTS,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path | None:
    """Where a file of a repository lies in the hub's cache, or None; asks no server.

    The arguments are those of `hub_file`.
    """
    for name in [names] if isinstance(names, str) else names:
        if found := _cached(repo, name, subfolder, revision, cache_dir):
            return found
    return None


def _cached(
    repo: str,
    name: str,
    subfolder: str | None,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
) -> Path | Literal[False] | None:
    """Where a file lies in the cache; False if the cache knows that there is none; None if it knows nothing."""
    from huggingface_hub import try_to_load_from_cache

    path = f"{subfolder}/{name}" if subfolder else name
    folder = Path(cache_dir).expanduser() if cache_dir else None
    found = try_to_load_from_cache(repo, path, cache_dir=folder, revision=revision)
    return Path(found) if isinstance(found, str) else None if found is None else False


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn the hub's errors into ours, with what to do about them."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{what} is open only to those who accepted its terms: do so on the repository's page, then log "
            "in with `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadError(
            f"{what} could not be found: the repository does not exist or is private. Check its name, or log "
            "in with `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.DisabledRepoError as error:
        raise DownloadError(f"{what} could not be fetched: the hub has disabled the repository") from error
    except errors.RevisionNotFoundError as error:
        raise DownloadError(f"{what} could not be found: the repository has no such revision") from error
    except errors.HFValidationError as error:
        raise DownloadError(f"{what} is not the name of a repository: {error}") from error
    except errors.EntryNotFoundError as error:
        raise DownloadError(f"{what} could not be fetched: {_reason(error.__cause__ or error)}") from error
    except OneCLIPError:
        raise
    except _network_errors() as error:
        raise DownloadError(f"{what} could not be fetched: {_reason(error)}") from error


def _network_errors() -> tuple[type[BaseException], ...]:
    """What the client raises when it cannot reach or read: errors of the HTTP library among it, whichever it is."""
    from huggingface_hub import errors

    http_errors = errors.HfHubHTTPError.__mro__
    return (OSError, *http_errors[: http_errors.index(Exception)])


def _reason(error: BaseException) -> str:
    """What went wrong on the way to the hub, in a line, and what can be done about it."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    endpoint = os.environ.get("HF_ENDPOINT") or "the hub"
    if status in (401, 403):
        return (
            f"{endpoint} refused the token (HTTP {status}). Log in with `hf auth login`, or set HF_TOKEN to one that "
            "may read the repository, or unset it"
        )
    if status == 429:
        return f"{endpoint} has had too many requests (HTTP 429). Wait some minutes, or log in with `hf auth login`"
    if status is not None and status >= 500:
        return f"{endpoint} is in trouble (HTTP {status}). Try again later"
    why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return (
        why if status else f"{why}. Is there a network, and does HF_ENDPOINT, if it is set, lead to the hub?"
    )
