"""A file of a repository on the Hugging Face hub to a path in the hub's cache."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from oneclip._version import __version__
from oneclip.errors import DownloadError, OfflineError, OneCLIPError
from oneclip.hub.place import OFFLINE_SWITCHES, offline, writing

HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""The usual names of weights in a repository, the safer first."""


def hub_file(
    repo: str,
    names: str | Sequence[str] = HUB_WEIGHTS,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Fetch a file of a repository on the Hugging Face hub, or find it in the hub's cache.

    Args:
        repo: `owner/name`.
        names: the file, or several of which the first that exists is taken.
        subfolder: folder of the repository that holds it.
        revision: branch, tag or commit.
        cache_dir: where to keep it, instead of the hub's usual cache.

    Raises:
        OfflineError: if it is not there and the network is switched off.
        DownloadError: if it does not exist, may not be read, or cannot be fetched.
        OutputError: if it cannot be written.
    """
    names = [names] if isinstance(names, str) else list(names)
    if found := _first(repo, names, subfolder, revision, cache_dir):
        return found
    here, wanted = _address(repo, subfolder, revision), " or ".join(names)
    if offline():
        raise OfflineError(
            f"{wanted} of {here} is not on this machine and the network is switched off "
            f"({' or '.join(OFFLINE_SWITCHES)}). Fetch it elsewhere with `hf download {repo}` and bring the "
            "hub's cache along"
        )
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
    found = ((name, _first(repo, [name], subfolder, revision, cache_dir)) for name in names)
    return {name: path for name, path in found if path}


def _first(
    repo: str,
    names: Sequence[str],
    subfolder: str | None,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
) -> Path | None:
    """The first file that exists, or that is here if the network is off; None if none does."""
    from huggingface_hub import errors, hf_hub_download

    here, local_only = _address(repo, subfolder, revision), offline()
    for name in names:
        with _translated(f"{name} of {here}"), writing(name):
            try:
                path = hf_hub_download(
                    repo,
                    name,
                    subfolder=subfolder,
                    revision=revision,
                    cache_dir=Path(cache_dir) if cache_dir else None,
                    local_files_only=local_only,
                    library_name="oneclip",
                    library_version=__version__,
                )
                return Path(path)
            except errors.LocalEntryNotFoundError:  # not in the cache, and the network is off or fails
                if not local_only:
                    raise
            except errors.EntryNotFoundError:
                continue
    return None


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
    from huggingface_hub import try_to_load_from_cache

    for name in [names] if isinstance(names, str) else names:
        path = f"{subfolder}/{name}" if subfolder else name
        found = try_to_load_from_cache(
            repo, path, cache_dir=Path(cache_dir) if cache_dir else None, revision=revision
        )
        if isinstance(found, str):
            return Path(found)
    return None


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
    except errors.RevisionNotFoundError as error:
        raise DownloadError(f"{what} could not be found: the repository has no such revision") from error
    except errors.HFValidationError as error:
        raise DownloadError(f"{what} is no name of a repository: {error}") from error
    except errors.EntryNotFoundError as error:
        why = error.__cause__ or error
        raise DownloadError(f"{what} could not be fetched: {why}. Is there a network?") from error
    except OneCLIPError:
        raise
    except Exception as error:
        http_errors = errors.HfHubHTTPError.__mro__  # those of the HTTP library among them, whichever it is
        if not isinstance(error, (OSError, *http_errors[: http_errors.index(Exception)])):
            raise
        raise DownloadError(f"{what} could not be fetched: {error}") from error
