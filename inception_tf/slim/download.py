"""Published checkpoints onto this machine: found where the user put them, or downloaded, and converted once."""

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from importlib import resources
from pathlib import Path

from inception_tf.errors import CheckpointError, DownloadError
from inception_tf.files import atomic_write
from inception_tf.progress import Progress
from inception_tf.slim import archives

try:
    import fcntl
except ImportError:  # Windows: two downloads of one file at the same time are not kept apart.
    fcntl = None

# Raise it when a conversion comes to write other weights, or the same under other names.
CACHE_VERSION = 1

_CHUNK = 1 << 16


def home():
    """The directory of the published checkpoints; see checkpoints/README.md.

    `INCEPTION_TF_HOME` where set, else `checkpoints/` of the source checkout the package runs from, else
    `~/.cache/inception_tf`.
    """
    if chosen := os.environ.get("INCEPTION_TF_HOME"):
        return Path(chosen).expanduser().absolute()
    beside = Path(str(resources.files("inception_tf.checkpoints")))
    if (beside.parent / "setup.cfg").is_file():
        return beside
    return Path("~/.cache/inception_tf").expanduser()


def locate(published):
    """The archive, V1 file or V2 prefix of a `Published` in `home()`, downloaded or put there by hand; or None."""
    own, stem = home() / published.name, published.member.rstrip("*")
    for folder in (own, home()):
        for name in (published.archive, f"{stem}.index", stem):
            if (folder / name).is_file():
                return folder / name.removesuffix(".index")
    return archives.find_checkpoint(own) if own.is_dir() and archives.candidates(own) else None


def fetch(published, *, timeout=30.0, tries=4, pause=1.0):
    """The path of a published checkpoint on this machine, downloaded to `home()` if it is not there yet.

    A download that breaks off is gone on with, in the same call and in later ones, unless the file on the server
    has changed. It gets its name when it is whole: its length, its MD5 where known, and a checkpoint in a readable
    archive. What the user put in `home()` is taken as it is, without network.

    Args:
        published: a `catalogue.Published`.
        timeout: seconds without an answer after which a connection counts as broken.
        tries: attempts in a row that may bring nothing new.
        pause: seconds before the second try; doubled for every further one.

    Returns:
        What `open_checkpoint` takes: an archive, a V1 file or a V2 prefix.

    Raises:
        DownloadError: it could not be had; the message says which file to put where.
    """
    if found := locate(published):
        return found
    target = home() / published.name / published.archive
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / ".lock"):
            if not target.exists():  # Another process may have been faster.
                _bring(published, target, timeout, tries, pause)
    except _Failed as error:
        raise DownloadError(
            f"{error}\nPut {published.archive} at {target} yourself, or set INCEPTION_TF_MIRROR to a URL or directory "
            "that has the archives, or INCEPTION_TF_HOME to where you keep them."
        ) from error
    except OSError as error:
        raise DownloadError(
            f"Cannot write {target}: {error.strerror or error}. INCEPTION_TF_HOME names another place."
        ) from error
    return target


def cached_conversion(published, build):
    """The Keras model converted from a published checkpoint, made on first use and again when its file is newer.

    Args:
        published: a `catalogue.Published`.
        build: called as `build(target)`: writes `target`, a `.keras` file, from what `fetch(published)` returns.

    Returns:
        The path of the model, `home()/<name>/<name>-<CACHE_VERSION>.keras`. Once it is there, neither the archive nor
        the network is needed.
    """
    target = home() / published.name / f"{published.name}-{CACHE_VERSION}.keras"
    source = locate(published)
    if not target.is_file() or (source and target.stat().st_mtime < _arrived(source)):
        with atomic_write(target, overwrite=True) as part:
            build(part)
    return target


def _arrived(source):
    """When a checkpoint came to lie where it is: an old file moved in is newer than what was converted before."""
    status = (source if source.exists() else Path(f"{source}.index")).stat()
    return max(status.st_mtime, status.st_ctime)


class _Failed(Exception):
    """Why a download came to nothing."""


class _Unreachable(_Failed):
    """No connection."""


class _Broken(_Failed):
    """A failure that another try may mend."""


@contextlib.contextmanager
def _locked(path):
    """Holds `path` for this process alone; waits for the one that has it. Ends with the process, however it ends."""
    with path.open("a") as file:
        if fcntl:
            with contextlib.suppress(OSError):  # Some network file systems have no locks.
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _bring(published, target, timeout, tries, pause):
    """Writes `target`: whole and looked through."""
    mirror = os.environ.get("INCEPTION_TF_MIRROR")
    scheme = mirror.partition("://")[0] if mirror else "http"
    part, note = (target.with_name(target.name + suffix) for suffix in (".part", ".part.validator"))
    if scheme in ("http", "https"):
        url = f"{mirror.rstrip('/')}/{published.archive}" if mirror else published.url
        resumed = _download(url, part, note, timeout, tries, pause)
    else:
        local = urllib.request.url2pathname(urllib.parse.urlsplit(mirror).path) if scheme == "file" else mirror
        url, resumed = Path(local).expanduser() / published.archive, False
        if not url.is_file():
            raise _Failed(f"INCEPTION_TF_MIRROR={mirror} has no file {published.archive}.")
        shutil.copyfile(url, part)
    if resumed and _flaw(published, part):
        # Two halves that do not fit, perhaps: once more in one piece.
        part.unlink()
        _download(url, part, note, timeout, tries, pause)
    if flaw := _flaw(published, part):
        part.unlink()
        raise _Failed(f"{url} is not what was published: {flaw}")
    part.replace(target)
    note.unlink(missing_ok=True)


def _flaw(published, part):
    """What is wrong with a downloaded archive, or None."""
    if published.md5:
        digest = hashlib.md5(usedforsecurity=False)
        with part.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != published.md5:
            return f"its MD5 is {digest.hexdigest()}, not {published.md5}."
    try:
        archives.check_archive(part)
    except CheckpointError as error:
        return str(error).replace(str(part), "it")
    return None


def _download(url, part, note, timeout, tries, pause):
    """Brings `url` to `part`, trying again while that helps. Returns whether it was put together from several."""
    most = already = _size(part)
    failures, attempts = 0, 0
    while True:
        attempts += 1
        try:
            _attempt(url, part, note, timeout)
            return already > 0 or attempts > 1
        except (_Broken, _Unreachable) as error:
            size = _size(part)
            failures = 1 if size > most else failures + 1
            most = max(most, size)
            # A machine that is offline should hear of it now; one that lost its connection half-way may get it back.
            if failures >= tries or (isinstance(error, _Unreachable) and most == already):
                raise _Failed(f"Cannot download {url}: {error}") from error
            time.sleep(pause * 2 ** (failures - 1))


def _attempt(url, part, note, timeout):
    """One request, for what `part` lacks if the server can vouch that the file is still the same, else for all."""
    have = _size(part)
    validator = note.read_text("latin-1") if have and note.exists() else ""
    headers = {"Range": f"bytes={have}-", "If-Range": validator} if validator else {}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
                return
            if error.code == 416:
                part.unlink()
            if error.code in (408, 416, 429) or error.code >= 500:
                raise _Broken(f"HTTP {error.code} {error.reason}") from error
            raise _Failed(f"Cannot download {url}: HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        kind = _Broken if isinstance(error.reason, ConnectionResetError) else _Unreachable
        raise kind(getattr(error.reason, "strerror", None) or str(error.reason)) from error
    except (http.client.InvalidURL, ValueError) as error:
        raise _Failed(f"{url} is no address: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(error) or type(error).__name__) from error

    with response:
        if response.status == 206:
            answer = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if not answer or int(answer[1]) != have or _validator(response) not in ("", validator):
                part.unlink()
                raise _Broken("the server sent another part than asked for")
            total = int(answer[2]) if answer[2] != "*" else None
        else:
            length = response.headers.get("Content-Length", "")
            have, total = 0, int(length) if length.isdigit() else None
        with part.open("ab" if have else "wb") as out:
            if not have:
                # After the truncation: a note never speaks for bytes that came before it.
                note.write_text(_validator(response), "latin-1")
            with Progress(part.name.removesuffix(".part"), total and total - have, "B") as progress:
                while chunk := _read(response):
                    out.write(chunk)
                    have += len(chunk)
                    progress.advance(len(chunk))
                    if have > archives.MAX_BYTES:
                        part.unlink()
                        raise _Failed(f"{url} is larger than {archives.MAX_BYTES:,} bytes.")
    if total is not None and have != total:
        raise _Broken(f"the connection ended after {have:,} of {total:,} bytes")


def _read(response):
    try:
        return response.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(error) or type(error).__name__) from error


def _validator(response):
    """What If-Range takes: a strong ETag, else the date of the last change, else nothing."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _size(path):
    return path.stat().st_size if path.exists() else 0
