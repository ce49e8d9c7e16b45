"""Packages with the images and words, fetched and unpacked.

Everything the recipe learns from comes from pinned packages. They are fetched with the ordinary clients
(`npm pack`, `apt-get download`), kept in a cache folder, and unpacked in it.
"""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class SourceError(RuntimeError):
    """Error of a package that could not be fetched or unpacked."""


@dataclass(frozen=True)
class Source:
    """Package that the recipe reads.

    Attributes:
        key: short name, also the folder it is unpacked in.
        client: "npm" or "apt".
        package: its name in the registry.
        version: the pinned version.
        licence: SPDX expression of what is used; "various" where each set carries its own.
        use: what the recipe takes from it.
    """

    key: str
    client: str
    package: str
    version: str
    licence: str
    use: str

    @property
    def archive_glob(self) -> str:
        """Return the pattern of the file that the client writes."""
        if self.client == "apt":
            return f"{self.package}_{self.version.replace(':', '%3a')}_*.deb"
        return f"{self.package.lstrip('@').replace('/', '-')}-{self.version}.tgz"


SOURCES = (
    Source("iconify", "npm", "@iconify/json", "2.2.535", "various", "icons, names, aliases, categories"),
    Source("fluent3d", "npm", "@lobehub/fluent-emoji-3d", "1.1.0", "MIT", "3D emoji images"),
    Source("emojibase", "npm", "emojibase-data", "17.0.0", "MIT", "Unicode names and tags of emoji"),
    Source("emojilib", "npm", "emojilib", "4.0.3", "MIT", "keywords of emoji"),
    Source("mdi", "npm", "@mdi/svg", "7.4.47", "Apache-2.0", "aliases and tags"),
    Source("tabler", "npm", "@tabler/icons", "3.51.0", "MIT", "tags"),
    Source("lucide", "npm", "lucide-static", "1.62.0", "ISC", "tags"),
    Source("phosphor", "npm", "@phosphor-icons/core", "2.1.1", "MIT", "tags"),
    Source("healthicons", "npm", "healthicons", "2.0.0", "MIT", "titles and tags"),
    Source("carbon", "npm", "@carbon/icons", "11.89.0", "Apache-2.0", "aliases"),
    Source("openclipart", "apt", "openclipart-svg", "1:0.18+dfsg-19", "LicenseRef-public-domain", "clip art"),
    Source("wordnet", "apt", "wordnet-base", "1:3.0-37", "WordNet-3.0", "nouns for the teacher"),
)


def fetch_sources(cache: Path, report: Callable[[str], None] = lambda line: None) -> dict[str, Path]:
    """Fetch and unpack all sources that are not in the cache.

    Args:
        cache: folder of the archives; they are unpacked under `cache/unpacked/`.
        report: called with a line for each package that is fetched.

    Returns:
        The folder of each source, by key. For npm it is the `package` folder inside.
    """
    cache.mkdir(parents=True, exist_ok=True)
    return {source.key: _unpack(_fetch(source, cache, report), source, cache) for source in SOURCES}


def _fetch(source: Source, cache: Path, report: Callable[[str], None]) -> Path:
    if found := sorted(cache.glob(source.archive_glob)):
        return found[0]
    report(f"fetching {source.package} {source.version}")
    command = (
        ["npm", "pack", "--silent", f"{source.package}@{source.version}"]
        if source.client == "npm"
        else ["apt-get", "download", f"{source.package}={source.version}"]
    )
    done = subprocess.run(command, cwd=cache, capture_output=True, text=True, check=False)
    found = sorted(cache.glob(source.archive_glob))
    if done.returncode or not found:
        raise SourceError(
            f"{' '.join(command)} did not give {source.archive_glob} (exit status {done.returncode}): "
            f"{done.stderr.strip()[-400:]}. Fetch that file by hand into {cache} and run again."
        )
    return found[0]


def _unpack(archive: Path, source: Source, cache: Path) -> Path:
    folder = cache / "unpacked" / f"{source.key}-{source.version.replace(':', '_')}"
    if not folder.exists():
        half = folder.with_name(folder.name + ".part")
        half.mkdir(parents=True, exist_ok=True)
        if source.client == "apt":
            subprocess.run(["dpkg", "-x", str(archive), str(half)], check=True)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(half, filter="data")
        half.rename(folder)
    return folder / "package" if source.client == "npm" else folder
