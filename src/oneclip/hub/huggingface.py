"""Files from repositories on the Hugging Face hub, verified and cached."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from oneclip._version import __version__
from oneclip.errors import ChecksumError, DownloadError, OfflineError, OneCLIPError
from oneclip.hub.atomic import write_errors
from oneclip.hub.cache import OFFLINE_REASON, PULL_HINT, offline, sha256_of

HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Usual names of weight files in a repository, the safer format first."""

ATTEMPTS = 3  # for a file whose connection breaks


def hub_file(
    repo: str,
    names: str | Sequence[str] = HUB_WEIGHTS,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Fetch a file from a repository on the Hugging Face hub, or find it in the hub's cache.

    Uses the hub's own client with its cache, token, endpoint (HF_ENDPOINT) and resumption. The client checks only
    sizes; the checksum is verified here.

    Args:
        repo: `owner/name`, or `datasets/owner/name` for a data set.
        names: the file, or several of which the first that exists is used; those known to be missing are tried last.
        subfolder: folder in the repository.
        revision: branch, tag or commit.
        cache_dir: folder to use instead of the hub's usual cache.

    Raises:
        OfflineError: if the file is not cached and the network is switched off.
        ChecksumError: if the content does not match the hub's checksum; the file is deleted.
        DownloadError: if the file does not exist, access is denied, or it cannot be fetched.
        OutputError: if it cannot be written.
    """
    names = [names] if isinstance(names, str) else list(names)
    if found := find_hub_file(repo, names, subfolder=subfolder, revision=revision, cache_dir=cache_dir):
        return found
    here, wanted = _repo_label(repo, subfolder, revision), " or ".join(names)
    if offline():
        raise OfflineError(f"{wanted} of {here} is not on this machine and {OFFLINE_REASON}. {PULL_HINT}")
    raise DownloadError(f"{here} does not contain {wanted}")


def hub_files(
    repo: str,
    names: Sequence[str],
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Path]:
    """Fetch the given files that a repository contains; offline, those that are cached.

    Missing files are left out. The other arguments and errors are those of `hub_file`.

    Returns:
        path of each file by its name.
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
    """Fetch a file as `hub_file` does, but return None if the repository lacks it or it is not cached offline."""
    from huggingface_hub import errors

    here = _repo_label(repo, subfolder, revision)
    with _hub_errors(here):
        cached = {name: _cached(repo, name, subfolder, revision, cache_dir) for name in names}
    if offline():
        return next((path for path in cached.values() if path), None)
    for name in sorted(names, key=lambda name: cached[name] is False):
        path_there = f"{subfolder}/{name}" if subfolder else name
        if cached[name] is False and not _exists_now(repo, path_there, revision):
            continue
        with _hub_errors(f"{name} of {here}"), write_errors(name):
            try:
                path = _download(repo, path_there, revision, cache_dir)
            except errors.LocalEntryNotFoundError:  # not cached, and the network failed
                raise
            except errors.EntryNotFoundError:
                continue
            before = cached[name]
            if not before or path.resolve() != before.resolve():
                _verify(path, path_there, repo, revision)
            return path
    return None


def _download(repo: str, path: str, revision: str | None, cache_dir: str | os.PathLike[str] | None) -> Path:
    """Download a file with the hub's client, and retry connections that break in the middle.

    Which interruptions the client resumes by itself differs from release to release.
    """
    from huggingface_hub import errors, hf_hub_download

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return Path(
                hf_hub_download(
                    **_client_repo(repo),
                    filename=path,
                    revision=revision,
                    cache_dir=Path(cache_dir) if cache_dir else None,
                    library_name="oneclip",
                    library_version=__version__,
                )
            )
        except (
            errors.HfHubHTTPError,
            errors.EntryNotFoundError,
        ):  # the hub answered, or could not be reached
            raise
        except _network_errors() as error:
            of_network = getattr(error, "errno", None) is None or isinstance(
                error, (ConnectionError, TimeoutError)
            )
            if attempt == ATTEMPTS or not of_network:
                raise
    raise AssertionError("an attempt either returns or raises")


def _exists_now(repo: str, path: str, revision: str | None) -> bool:
    """Return whether a file that the cache records as missing exists now; an unreachable hub counts as no.

    The metadata is requested directly: for a file that is not cached, the client retries for half a minute when the
    network is down.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(**_client_repo(repo), filename=path, revision=revision))
    except _network_errors():
        return False
    return True


def _verify(path: Path, name: str, repo: str, revision: str | None) -> None:
    """Compare a downloaded file with its checksum, and delete it if they differ.

    The ETag of large files is their SHA-256, which is also the name of the cached blob; if the cache has no symbolic
    links, the hub is asked. Small files have a git hash as ETag and are not checked.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    blob = path.resolve()
    etag = (
        blob.name
        if path.is_symlink()
        else get_hf_file_metadata(hf_hub_url(**_client_repo(repo), filename=name, revision=revision)).etag
    )
    if not etag or not re.fullmatch(r"[0-9a-f]{64}", etag):
        return
    found = sha256_of(blob)
    if found != etag:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise ChecksumError(
            f"{name} of {_repo_label(repo, None, revision)} has the sha256 {found}; the hub has {etag}. The file was "
            "deleted. Try again, or use another network: a proxy may change the content"
        )


def _client_repo(repo: str) -> dict[str, Any]:
    """Return the arguments by which the hub's client knows a repository."""
    kind, _, name = repo.partition("/")
    if kind == "datasets" and "/" in name:
        return {"repo_id": name, "repo_type": "dataset"}
    return {"repo_id": repo}


def _repo_label(repo: str, subfolder: str | None, revision: str | None) -> str:
    """Format a repository for messages."""
    return f"hf-hub:{repo}" + (f"/{subfolder}" if subfolder else "") + (f"@{revision}" if revision else "")


def cached_hub_file(
    repo: str,
    names: str | Sequence[str] = HUB_WEIGHTS,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path | None:
    """Return the path of a file in the hub's cache, or None; no network access. Arguments as of `hub_file`.

    Raises:
        DownloadError: if the name of the repository is not valid.
    """
    for name in [names] if isinstance(names, str) else names:
        with _hub_errors(_repo_label(repo, subfolder, revision)):
            found = _cached(repo, name, subfolder, revision, cache_dir)
        if found:
            return found
    return None


def _cached(
    repo: str,
    name: str,
    subfolder: str | None,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
) -> Path | Literal[False] | None:
    """Return the cached path, False if the cache records the file as missing, or None if it knows nothing."""
    from huggingface_hub import try_to_load_from_cache

    path = f"{subfolder}/{name}" if subfolder else name
    folder = Path(cache_dir).expanduser() if cache_dir else None
    found = try_to_load_from_cache(**_client_repo(repo), filename=path, cache_dir=folder, revision=revision)
    return Path(found) if isinstance(found, str) else None if found is None else False


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Turn the client's exceptions into ours, with advice."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{what} requires accepting its terms: accept them on the repository's page, then log "
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
        raise DownloadError(f"{what} could not be found: the revision does not exist") from error
    except errors.HFValidationError as error:
        raise DownloadError(f"{what} is not a valid repository name: {error}") from error
    except errors.EntryNotFoundError as error:
        raise DownloadError(f"{what} could not be fetched: {_reason(error.__cause__ or error)}") from error
    except OneCLIPError:
        raise
    except _network_errors() as error:
        raise DownloadError(f"{what} could not be fetched: {_reason(error)}") from error


def _network_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions of a failed connection, including those of the client's HTTP library."""
    from huggingface_hub import errors

    http_errors = errors.HfHubHTTPError.__mro__
    return (OSError, *http_errors[: http_errors.index(Exception)])


def _reason(error: BaseException) -> str:
    """Describe a failed request in one line, with advice."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    endpoint = os.environ.get("HF_ENDPOINT") or "the hub"
    if status in (401, 403):
        return (
            f"{endpoint} refused the token (HTTP {status}). Log in with `hf auth login`, set HF_TOKEN to a token with "
            "access to the repository, or unset it"
        )
    if status == 429:
        return f"{endpoint} received too many requests (HTTP 429). Wait some minutes, or log in with `hf auth login`"
    if status is not None and status >= 500:
        return f"{endpoint} has a server error (HTTP {status}). Try again later"
    why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return why if status else f"{why}. Check the network connection and, if it is set, HF_ENDPOINT"
