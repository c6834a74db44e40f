"""Published checkpoints on this machine: found where the user put them, or downloaded, and converted once."""

import contextlib
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
import warnings
from importlib import resources
from pathlib import Path

from inception_tf.errors import CheckpointError, DownloadError
from inception_tf.files import atomic_write
from inception_tf.progress import Progress
from inception_tf.slim import archives

try:
    import fcntl
except ImportError:  # Windows: simultaneous downloads of one file are not serialized.
    fcntl = None

# Increase it when a conversion writes other weights, or the same under other names.
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

    A download that breaks off is resumed, in the same call and in later ones. It gets its name when it is complete:
    its length, its checksum, and a checkpoint in a readable archive. No checksum was published for most: the SHA-256
    of the first complete download is kept beside the archive, `<archive>.sha256` as sha256sum writes it, and holds from
    then on, for that file and for every later download. What the user put in `home()` is taken as it is, without
    network.

    Args:
        published: a `catalogue.Published`.
        timeout: seconds without an answer after which a connection counts as broken.
        tries: attempts in a row that may download nothing new.
        pause: seconds before the second try; doubled for every further one.

    Returns:
        What `open_checkpoint` takes: an archive, a V1 file or a V2 prefix.

    Raises:
        DownloadError: it could not be downloaded; the message says which file to put where. Or it has changed since.
    """
    if found := locate(published):
        if found.is_file() and (error := _pin_error(found, found)):
            raise DownloadError(
                f"{found} is not what was downloaded: {error} Delete it to download it again, or, if you put it there "
                f"yourself, delete {_pin(found).name} beside it."
            )
        return found
    target = home() / published.name / published.archive
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / ".lock"):
            if not target.exists():  # Another process may have been faster.
                _download_to(target, published, timeout, tries, pause)
    except _Failure as error:
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
    """The Keras model converted from a published checkpoint on first use, and again when its file is newer.

    Args:
        published: a `catalogue.Published`.
        build: called as `build(target)`: writes `target`, a `.keras` file, from what `fetch(published)` returns.

    Returns:
        The path of the model, `home()/<name>/<name>-<CACHE_VERSION>.keras`. Once it is there, neither the archive nor
        the network is needed.
    """
    target = home() / published.name / f"{published.name}-{CACHE_VERSION}.keras"
    source, arrived = locate(published), 0
    if source:  # an old file moved in is newer than what was converted before
        status = (source if source.exists() else Path(f"{source}.index")).stat()
        arrived = max(status.st_mtime, status.st_ctime)
    if not target.is_file() or target.stat().st_mtime < arrived:
        with atomic_write(target, overwrite=True) as part:
            build(part)
    return target


class _Failure(Exception):
    """Why a download failed.

    Attributes:
        retry: whether another attempt may succeed.
        offline: whether no connection was made.
    """

    def __init__(self, reason, retry=False, offline=False):
        super().__init__(reason)
        self.retry, self.offline = retry, offline


@contextlib.contextmanager
def _locked(path):
    """Holds `path` for this process alone; waits for the one that has it. Ends with the process, however it ends."""
    with path.open("a") as file:
        if fcntl:
            with contextlib.suppress(OSError):  # Some network file systems have no locks.
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download_to(target, published, timeout, tries, pause):
    """Writes `target`, complete and validated."""
    url, mirror = published.url, os.environ.get("INCEPTION_TF_MIRROR")
    if mirror:
        mirror = mirror if "://" in mirror else Path(mirror).expanduser().absolute().as_uri()
        url = f"{mirror.rstrip('/')}/{published.archive}"
    part = target.with_name(target.name + ".part")
    resumed = _download(url, part, timeout, tries, pause)
    error = _validation_error(published, part, target, resumed)
    if error and resumed:  # The file on the server may have changed in between: once more in one piece.
        part.unlink()
        _download(url, part, timeout, tries, pause)
        error = _validation_error(published, part, target)
    if error:
        part.unlink()
        raise _Failure(f"{url} is not what was published: {error}")
    if not _pin(target).is_file():
        digest = _digest(part, "sha256")
        _pin(target).write_text(f"{digest}  {target.name}\n", "utf-8")
        if not published.md5:
            warnings.warn(
                f"No checksum of {target.name} is known: {url} was trusted. Its SHA-256, {digest}, is kept beside it, "
                "and another file will be refused.",
                stacklevel=2,
            )
    part.replace(target)


def _pin(archive):
    """Where the SHA-256 of the first complete download of an archive is."""
    return archive.with_name(archive.name + ".sha256")


def _pin_error(target, file):
    """How `file` differs from the first complete download of `target`; None where it does not, or none was."""
    pin = _pin(target)
    expected = pin.read_text("utf-8", "replace").split() if pin.is_file() else []
    if expected and (digest := _digest(file, "sha256")) != expected[0]:
        return f"its SHA-256 is {digest}, not {expected[0]} as in {pin.name}."
    return None


def _digest(path, kind):
    digest = hashlib.new(kind, usedforsecurity=kind != "md5")
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _validation_error(published, part, target, resumed=False):
    """What is wrong with a downloaded archive, or None. A resumed one must have a checksum, gzip's or the MD5."""
    with part.open("rb") as file:
        if resumed and not published.md5 and file.read(2) != b"\x1f\x8b":
            return "it has no checksum."
    if published.bytes and _size(part) != published.bytes:
        return f"it has {_size(part):,} bytes, not {published.bytes:,}."
    if published.md5 and (digest := _digest(part, "md5")) != published.md5:
        return f"its MD5 is {digest}, not {published.md5}."
    if error := _pin_error(target, part):
        return f"{error} It has changed since it was first downloaded. To take the new one, delete {_pin(target)}."
    try:
        archives.check_archive(part)
    except CheckpointError as error:
        return str(error).replace(str(part), "it")
    return None


def _download(url, part, timeout, tries, pause):
    """Downloads `url` to `part`, trying again while that helps. Returns whether several responses are in it."""
    most = already = _size(part)
    failures = 0
    while True:
        try:
            return _attempt(url, part, timeout)
        except _Failure as error:
            size = _size(part)
            failures = 1 if size > most else failures + 1
            most = max(most, size)
            # An offline machine gets its error at once; one that lost its connection half-way is given time.
            if not error.retry or failures >= tries or (error.offline and most == already):
                raise _Failure(f"Cannot download {url}: {error}") from error
            time.sleep(pause * 2 ** (failures - 1))


def _attempt(url, part, timeout):
    """One request, for what `part` lacks. Returns whether there was something in it that stayed."""
    have = _size(part)
    with _network_failures():
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            response = urllib.request.urlopen(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
                return True  # It lacks nothing.
            if error.code == 416:
                part.unlink()
            raise
    with response:
        total, resumed = response.headers.get("Content-Length", ""), response.status == 206
        if resumed:
            sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if not sent or int(sent[1]) != have:
                part.unlink()
                raise _Failure("the server sent another part than asked for", retry=True)
            total = sent[2]
        have = have if resumed else 0
        total = int(total) if total.isdigit() else None
        with part.open("ab" if resumed else "wb") as out, Progress(part.stem, total and total - have, "B") as progress:
            while True:
                with _network_failures():
                    chunk = response.read(_CHUNK)
                if not chunk:
                    break
                out.write(chunk)
                have += len(chunk)
                progress.advance(len(chunk))
                if have > archives.MAX_BYTES:
                    part.unlink()
                    raise _Failure(f"it is larger than {archives.MAX_BYTES:,} bytes")
    if total is not None and have != total:
        raise _Failure(f"the connection ended after {have:,} of {total:,} bytes", retry=True)
    return resumed


@contextlib.contextmanager
def _network_failures():
    """Turns what urllib raises into a `_Failure`."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        retry = error.code in (408, 416, 429) or error.code >= 500
        raise _Failure(f"HTTP {error.code} {error.reason}", retry) from error
    except urllib.error.URLError as error:
        reason = getattr(error.reason, "strerror", None) or str(error.reason)
        raise _Failure(reason, offline=not isinstance(error.reason, ConnectionResetError), retry=True) from error
    except (http.client.InvalidURL, ValueError) as error:
        raise _Failure(f"not a valid URL: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Failure(str(error) or type(error).__name__, retry=True) from error


def _size(path):
    return path.stat().st_size if path.exists() else 0
