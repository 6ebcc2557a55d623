"""Getting published files: from web servers, hub repositories, shared folders and mirrors, into a cache."""

import hashlib
import http.client
import logging
import os
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urldefrag, urlsplit

_logger = logging.getLogger(__name__)

TIMEOUT = 30.0  # seconds without a byte
RETRIES = 4  # continuations of a broken download
PAUSE = 1.0  # seconds before the first retry, doubled each time

_HUB = re.compile(r"https?://huggingface\.co/([^/]+/[^/]+)/(?:resolve|blob)/([^/]+)/(.+)")
_DRIVE = "drive.google.com"
_PAGES = ("sharepoint.com", "1drv.ms", "onedrive.live.com")  # only a person at a browser gets files from these
_HOPELESS = (socket.gaierror, ssl.SSLCertVerificationError, ConnectionRefusedError)  # not worth a retry
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # torch.hub's convention: the beginning of the SHA-256


class DownloadError(OSError):
    """A file cannot be had.

    Attributes:
        status: Of the server's answer, None if there was none.
        by_hand: Name of the file, where a person at a browser can get it.
    """

    def __init__(self, message: str, status: int | None = None, by_hand: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.by_hand = by_hand


class Address(NamedTuple):
    """Where a file is.

    Written as a URL, ``hf-hub:OWNER/NAME[@REVISION]`` or a path; what comes after ``#`` says more about the file:
    ``file=`` its name (inside a folder or repository), ``sha256=`` (at least the first 8 digits), ``size=`` in bytes.
    """

    url: str
    file: str
    sha256: str
    size: int | None

    @classmethod
    def parse(cls, text: str) -> "Address":
        url, fragment = urldefrag(text) if ":" in text else (text, "")
        notes = {key: values[0] for key, values in parse_qs(fragment).items()}
        file, sha256 = notes.get("file", ""), notes.get("sha256", "").lower()
        if not file and not url.startswith("hf-hub:"):
            file = unquote(os.path.basename(urlsplit(url).path))
        named = _HASH_IN_NAME.search(file)
        if not sha256 and named and not named[1].isdigit():  # digits alone are rather a date
            sha256 = named[1]
        return cls(url, file, sha256, int(notes["size"]) if "size" in notes else None)


def home() -> Path:
    """The cache folder: ``BACKBONES_HOME``, else ``backbones`` in timm's (``TORCH_HOME`` moves that)."""
    if folder := os.environ.get("BACKBONES_HOME"):
        return Path(folder).expanduser()
    from timm.models._hub import get_cache_dir

    return Path(get_cache_dir("backbones"))


def is_remote(source: str) -> bool:
    """Whether ``source`` is an address rather than a path."""
    return source.startswith(("http://", "https://", "hf-hub:"))


def sha256_of(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _verify(path: Path, address: Address) -> None:
    size = path.stat().st_size
    if address.size is not None and size != address.size:
        raise DownloadError(f"{address.url} gave {size} bytes, it should have {address.size}")
    if address.sha256 and not (digest := sha256_of(path)).startswith(address.sha256):
        raise DownloadError(
            f"{address.url} has SHA-256 {digest}, it should begin with {address.sha256}: changed or damaged"
        )
    with open(path, "rb") as file:
        head = file.read(64).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise DownloadError(f"{address.url} gave a web page instead of a file: open it in a browser to see why")
    if size == 0:
        raise DownloadError(f"{address.url} gave an empty file")


def _transfer(url: str, part: Path, timeout: float, bar: Any) -> None:
    """Bring ``part`` to its full length, from where it ends if the server still has the same file.

    Raises:
        EOFError: If the server stops early.
    """
    tag = part.with_suffix(".etag")  # which version of the file the part belongs to
    done = part.stat().st_size if part.exists() and tag.exists() else 0
    headers = {"User-Agent": "efficient-backbones", "Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": tag.read_text()}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as answer:
        if answer.status == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            tag.unlink()
            raise EOFError("the server continued at another place")
        if answer.status != 206:
            done = 0
            version = answer.headers.get("ETag", "")
            version = version if version.startswith('"') else answer.headers.get("Last-Modified", "")
            tag.write_text(version) if version else tag.unlink(missing_ok=True)
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        bar.reset(total)
        bar.update(done)
        with open(part, "r+b" if done else "wb") as file:
            file.seek(done)
            while chunk := answer.read1(2**20):
                file.write(chunk)
                done += len(chunk)
                bar.update(len(chunk))
    if total is not None and done != total:
        raise EOFError(f"it ended after {done} of {total} bytes")


def download(address: Address, target: Path, progress: bool = True) -> Path:
    """Download over HTTP to ``target``, which appears only when it is whole and right.

    A broken download is continued, also by a later process, if the server knows ranges. Several processes may ask for
    the same file: one downloads, the others wait for it.

    Raises:
        DownloadError: If there is no such file, if no attempt came through, or if size, hash or kind are wrong.
    """
    from filelock import FileLock
    from tqdm import tqdm

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with FileLock(f"{target}.lock"):
        if target.exists():
            return target
        for attempt in range(RETRIES + 1):
            try:
                with tqdm(
                    desc=target.name, unit="B", unit_scale=True, unit_divisor=1024, disable=None if progress else True
                ) as bar:
                    _transfer(address.url, part, TIMEOUT, bar)
                break
            except urllib.error.HTTPError as error:
                if error.code == 416:  # the part is longer than the file: not the same file
                    part.unlink(missing_ok=True)
                elif error.code not in (408, 425, 429) and error.code < 500:
                    raise DownloadError(f"{address.url}: {error.code} {error.reason}", error.code) from error
                reason: Exception = error
            except (OSError, EOFError, http.client.HTTPException) as error:
                reason = error
                if isinstance(getattr(error, "reason", None), _HOPELESS):
                    raise DownloadError(f"{address.url}: {reason}") from error
            if attempt == RETRIES:
                raise DownloadError(f"{address.url}: {reason}, in the last of {attempt + 1} attempts") from reason
            _logger.warning("%s: %s; attempt %d of %d follows", address.url, reason, attempt + 2, RETRIES + 1)
            time.sleep(PAUSE * 2**attempt)
        try:
            _verify(part, address)
        except DownloadError:
            part.unlink()
            raise
        finally:
            part.with_suffix(".etag").unlink(missing_ok=True)
        os.replace(part, target)
    return target


def _from_hub(address: Address, cache_dir: Path | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    repo, _, revision = address.url.removeprefix("hf-hub:").partition("@")
    names = [address.file] if address.file else ["model.safetensors", "pytorch_model.bin"]
    for name in names:
        try:
            path = hf_hub_download(repo, name, revision=revision or None, cache_dir=cache_dir)
        except EntryNotFoundError as error:
            if name == names[-1]:
                raise DownloadError(f"{repo} on the hub has no {' or '.join(names)}: {error}", 404) from error
        except Exception as error:  # the hub's library raises errors of its own, of its HTTP client and of the system
            raise DownloadError(f"{repo} on the hub, {name}: {error}") from error
        else:
            _verify(Path(path), address)
            return Path(path)
    raise AssertionError


def _by_hand(address: Address, reason: str) -> DownloadError:
    message = f"{reason}; open {address.url} in a browser and download {address.file or 'the file'}"
    return DownloadError(message, by_hand=address.file or "FILE")


def _from_drive(address: Address, target: Path, progress: bool) -> Path:
    from filelock import FileLock

    try:
        import gdown
    except ImportError as error:
        raise _by_hand(address, "Google Drive has no direct links; `pip install gdown` may get the file") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with FileLock(f"{target}.lock"):
        if target.exists():
            return target
        try:
            url = address.url
            if "/folders/" in url:
                listed: list[Any] = gdown.download_folder(url=url, quiet=True, skip_download=True)
                ids = [entry.id for entry in listed if os.path.basename(entry.path) == address.file]
                if not ids:
                    raise FileNotFoundError(f"{address.file} is not in the folder")
                url = f"https://{_DRIVE}/uc?id={ids[0]}"
            gdown.download(url=url, output=str(part), quiet=not progress, resume=True)
            _verify(part, address)
        except Exception as error:  # the library's own, its HTTP client's and the system's
            part.unlink(missing_ok=True)
            raise _by_hand(address, f"Google Drive did not give {address.file}: {error}") from error
        os.replace(part, target)
    return target


def mirrored(name: str) -> str | None:
    """Address of a file called ``name`` on the mirror that ``BACKBONES_MIRROR`` names, if it does.

    A mirror is an HTTP address or a folder with the files beside each other, or ``hf-hub:OWNER``: the repository
    ``OWNER/NAME`` then stands for ``NAME.safetensors``. So it does where an address names a repository and no file.
    """
    mirror = os.environ.get("BACKBONES_MIRROR", "").rstrip("/")
    if not mirror:
        return None
    if mirror.startswith("hf-hub:"):
        return f"{mirror}/{name.removesuffix('.safetensors')}"
    return f"{mirror}/{name}"


def fetch(source: str, cache_dir: str | os.PathLike | None = None, progress: bool = True) -> Path:
    """A local copy of a file.

    Args:
        source: Path, or an :class:`Address`: of a web server, of the Hugging Face hub (also as
            ``https://huggingface.co/OWNER/NAME/resolve/main/FILE``), of a file or folder on Google Drive.
        cache_dir: Where downloads go; the default is :func:`home`, or the hub's own cache.
        progress: Show a bar, where there is a terminal.

    Raises:
        FileNotFoundError: If a path does not exist.
        DownloadError: If the file cannot be had, or is not what the address says.
    """
    if not is_remote(source):
        if not os.path.isfile(source):
            raise FileNotFoundError(f"no file at {source!r}")
        return Path(source)
    address = Address.parse(source)
    if hub := _HUB.fullmatch(address.url):
        address = address._replace(url=f"hf-hub:{hub[1]}@{unquote(hub[2])}", file=unquote(hub[3]))
    name = os.path.basename(address.file)
    if not name and address.url.startswith("hf-hub:"):
        name = os.path.basename(address.url.partition("@")[0]) + ".safetensors"
    mirror = mirrored(name) if name else None
    if mirror and not source.startswith(os.environ["BACKBONES_MIRROR"]):
        address = address._replace(url=mirror)
        if not is_remote(mirror):
            if not os.path.isfile(mirror):
                raise DownloadError(f"the mirror (BACKBONES_MIRROR) has no {mirror}", 404)
            _verify(Path(mirror), address)
            return Path(mirror)
    if address.url.startswith("hf-hub:"):
        hub_cache = cache_dir or (home() / "hub" if "BACKBONES_HOME" in os.environ else None)
        return _from_hub(address, Path(hub_cache) if hub_cache else None)
    if any(page in urlsplit(address.url).netloc for page in _PAGES):
        raise _by_hand(address, "This page has no direct links")
    folder = hashlib.sha256(f"{address.url}#{address.file}".encode()).hexdigest()[:8]  # many sites have a model.pth
    target = Path(cache_dir or home()) / "downloads" / folder / (address.file or "file")
    if target.exists():
        _verify(target, address)
        return target
    if urlsplit(address.url).netloc == _DRIVE:
        return _from_drive(address, target, progress)
    return download(address, target, progress)


def discard(path: Path, cache_dir: str | os.PathLike | None = None) -> None:
    """Remove a file that :func:`fetch` put into the download folder; others are left alone."""
    downloads = Path(cache_dir or home()) / "downloads"
    if downloads in path.parents:
        shutil.rmtree(path.parent, ignore_errors=True)
