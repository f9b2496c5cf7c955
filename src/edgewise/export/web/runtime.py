"""onnxruntime-web: which version, which of its files, and how to be sure of them.

The package holds many builds, 138 MB in all. A page needs three files of it, 14.3 MB (3.7 MB when the server
compresses): the WebAssembly build for the CPU (SIMD; it can use threads where the page is cross-origin isolated) and
the two scripts that load it. They come from a folder or package file given by path, or from the cache;
the npm registry is asked only on request, and whatever comes is compared with the hashes below.
"""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from edgewise import runs
from edgewise.errors import UnavailableError

NAME, VERSION = "onnxruntime-web", "1.30.0"
TARBALL = f"https://registry.npmjs.org/{NAME}/-/{NAME}-{VERSION}.tgz"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""The registry's own checksum of the package file, as in a package-lock.json."""
TARBALL_LIMIT = 64 << 20

FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""The files that are taken, with their sha256."""

_PLACES = (".", "dist", "package/dist", f"{NAME}/dist", f"node_modules/{NAME}/dist")


def runtime_files(given: Path | None, *, download: bool = False) -> dict[str, bytes]:
    """The files of `FILES`, checked.

    Args:
        given: a folder that holds them (an unpacked package, or one with `node_modules`), or the package file that
            `npm pack` writes; None for the cache.
        download: fetch the package from the npm registry when nothing was given and the cache has none.

    Raises:
        UnavailableError: E60, they are not there; E61, they are not those of the pinned version; E62, they cannot be
            fetched.
    """
    if given is not None:
        found = _from_tarball(given.read_bytes(), given) if given.is_file() else _from_folder(given)
        return _checked(found, given)
    cached = runs.cache_dir() / f"{NAME}-{VERSION}"
    if any(not (cached / name).is_file() for name in FILES) and download:
        fetched = _checked(_from_tarball(_fetch(TARBALL), TARBALL), TARBALL)
        try:
            for name, data in fetched.items():
                runs.write_bytes(cached / name, data)
        except OSError as problem:
            raise UnavailableError(
                f"cannot keep {NAME} in the cache",
                code="E62",
                where={"folder": cached},
                why=problem.strerror or str(problem),
                fix="set EDGEWISE_CACHE to a folder you can write",
            ) from problem
    return _checked(_from_folder(cached), cached)


def _from_folder(folder: Path) -> dict[str, bytes]:
    for place in _PLACES:
        if all((folder / place / name).is_file() for name in FILES):
            return {name: (folder / place / name).read_bytes() for name in FILES}
    raise UnavailableError(
        f"{NAME} {VERSION} is not there",
        code="E60",
        where={"folder": folder},
        why="looked for " + ", ".join(FILES),
        fix=f"npm pack {NAME}@{VERSION}, then --runtime {NAME}-{VERSION}.tgz; or allow the network with --download",
    )


def _from_tarball(data: bytes, source: object) -> dict[str, bytes]:
    """The files out of a package file, read in memory: nothing is unpacked to a path that the package names."""
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != INTEGRITY.removeprefix("sha512-"):
        raise _foreign(source, f"the package's sha512 is not that of {VERSION}")
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as package:
        for name in FILES:
            stream = package.extractfile(f"package/dist/{name}")
            found[name] = stream.read() if stream else b""
    return found


def _checked(found: Mapping[str, bytes], source: object) -> dict[str, bytes]:
    wrong = [name for name, expected in FILES.items() if hashlib.sha256(found[name]).hexdigest() != expected]
    if wrong:
        raise _foreign(source, "another sha256: " + ", ".join(wrong))
    return dict(found)


def _foreign(source: object, why: str) -> UnavailableError:
    return UnavailableError(
        f"this is not {NAME} {VERSION}",
        code="E61",
        where={"source": source},
        why=why,
        fix=f"this edgewise is tested with exactly that version: npm pack {NAME}@{VERSION}",
    )


def _fetch(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            data: bytes = answer.read(TARBALL_LIMIT + 1)
    except (urllib.error.URLError, OSError) as problem:
        raise UnavailableError(
            f"cannot fetch {NAME}",
            code="E62",
            where={"address": address},
            why=str(getattr(problem, "reason", problem)),
            fix=f"on a machine with a network: npm pack {NAME}@{VERSION}; then --runtime {NAME}-{VERSION}.tgz",
        ) from problem
    return data
