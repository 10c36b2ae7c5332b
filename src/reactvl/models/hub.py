"""Files of hub repositories: cached where every tool looks for them, resumed after any interruption, refused in one line.

The cache is huggingface_hub's own and so are its settings (HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN). Its
newer versions drop what a killed download has fetched; a checkpoint here is up to 6 GB, so the bytes are fetched by its `http_get`
to a file beside the cache's blobs that the next run goes on from, and `hf_hub_download` finds the finished blob there.
"""

import hashlib
import os
import re
from pathlib import Path

from reactvl.manifest import ReactvlError, own

WAIT = 24 * 3600.0  # seconds for another process that fetches the same file


class Missing(ReactvlError):
    """The repository has no such file, or (offline) the cache has not."""


def fetch(repository: str, file: str, *, dataset: bool = False, instead: str = "") -> Path:
    """The path of a repository's file in the cache, fetched where it is not there or not the newest.

    Offline (HF_HUB_OFFLINE, or a hub that does not answer) the cached file serves. Raises ReactvlError that says why there is
    none and what to do; `instead` is a further way out ("give the file as NAME:FILE").
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    kind = "dataset" if dataset else "model"
    try:
        if constants.HF_HUB_OFFLINE:
            return Path(hf_hub_download(repository, file, repo_type=kind, local_files_only=True))
        url = hf_hub_url(repository, file, repo_type=kind)
        try:
            about = get_hf_file_metadata(url)
        except Exception:
            cached = try_to_load_from_cache(repository, file, repo_type=kind)
            if isinstance(cached, str):
                return Path(cached)
            raise
        if about.size and re.fullmatch(r"[0-9a-f]{40,64}", about.etag or ""):  # it becomes a file's name
            complete(repository, kind, file, url, about.etag, about.size)
        return Path(hf_hub_download(repository, file, repo_type=kind))
    except ReactvlError:
        raise
    except Exception as fault:  # the hub's client and the transport under it raise many kinds, others in every version
        raise told(repository, file, fault, instead) from None


def complete(repository: str, kind: str, file: str, url: str, etag: str, size: int) -> None:
    """Bring the file's blob into the cache, going on from what an earlier run fetched.

    Large files' etag is the SHA-256 of their bytes, which is checked.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type=kind) / "blobs"
    blob, part, lock = blobs / etag, blobs / f"{etag}.reactvl.part", blobs / f"{etag}.reactvl.lock"
    if blob.exists():
        return
    blobs.mkdir(parents=True, exist_ok=True)
    with own(lock, WAIT) as free:
        try:
            if free and not blob.exists():  # not fetched by another process meanwhile
                bring(url, part, size, file)
                check(part, etag, f"{repository}/{file}")
                os.replace(part, blob)
        finally:
            if free:
                lock.unlink(missing_ok=True)


def bring(url: str, part: Path, size: int, shown: str) -> None:
    """Fetch what `part` lacks of the `size` bytes."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    if part.exists() and part.stat().st_size > size:
        part.unlink()
    with open(part, "ab") as into:
        http_get(
            url,
            into,
            resume_size=into.tell(),
            headers=build_hf_headers(),
            expected_size=size,
            displayed_filename=shown,
        )
        into.flush()
        os.fsync(into.fileno())


def check(part: Path, etag: str, what: str) -> None:
    """ReactvlError, and nothing kept, when the bytes are not those that the etag names."""
    if len(etag) != 64:
        return
    with open(part, "rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != etag:
        part.unlink()
        raise ReactvlError(
            f"{what}: arrived damaged (SHA-256 {actual[:12]}..., not {etag[:12]}...); run the same again"
        )


def told(repository: str, file: str, fault: Exception, instead: str) -> ReactvlError:
    """Why a file cannot be had, and what to do, in one line."""
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HFValidationError, RepositoryNotFoundError

    what, where = f"{repository}/{file}", constants.ENDPOINT
    out = f", or {instead}" if instead else ""
    if isinstance(fault, HFValidationError):
        return ReactvlError(f"{what}: not a repository's name; use OWNER/NAME")
    if constants.HF_HUB_OFFLINE:
        return Missing(
            f"{what}: not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set: unset it once to fetch it{out}"
        )
    if isinstance(fault, GatedRepoError):
        return ReactvlError(
            f"{what}: asks for consent: accept its terms on {where}/{repository}, then `hf auth login`{out}"
        )
    if isinstance(fault, RepositoryNotFoundError) or getattr(getattr(fault, "response", None), "status_code", 0) == 401:
        return ReactvlError(
            f"{what}: {where} has no such repository, or it is private: check the name, or `hf auth login`{out}"
        )
    if isinstance(fault, EntryNotFoundError):
        return Missing(f"{what}: the repository on {where} has no such file{out}")
    reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0].strip()[:200]
    return ReactvlError(
        f"{what}: could not be fetched from {where} ({reason}): check the connection and the disk, and run the same again{out}"
    )
