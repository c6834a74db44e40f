"""Images, labeled or not, as Arrow tables, one after another, from whatever holds them: never listed as a whole."""

import csv
import glob
import io
import itertools
import os
from functools import partial
from pathlib import Path

from inception_tf.errors import ImageError, UsageError, listed, need, raising
from inception_tf.images.files import IMAGE_SUFFIXES, is_image_name, iterate_images
from inception_tf.images.table import IMAGE_COLUMNS, SUFFIXES, hub_names, table_columns
from inception_tf.remote import is_url, local_copy, open_binary, open_filesystem

_LISTS = (".txt", ".lst", ".manifest")
_CONTENTS = ("image", "images", "img", "bytes", "jpg", "jpeg", "png", "webp")  # columns of images, where they are bytes
_SORTED = 10_000  # of so many names at a time, so that a directory of any size takes the same memory
_BYTES = 64 << 20  # of images in a table


def image_tables(inputs, rows=256, labels=None):
    """Yields `pyarrow.Table`s of images with the column `path`, strings; those of archives also `bytes` and `error`.

    Args:
        inputs: one or a list of
            a directory, or a prefix such as `s3://bucket/photos/`, searched to the bottom as `find_images` does it;
            an image's file, a URL that fsspec reads, or a pattern of either (`*`, `?`, `[…]`, `**`);
            a manifest: CSV, TSV or Parquet with a column of the paths as `open_table` has it, `path` before others,
                or in Parquet of the images' bytes; its other columns come along. Or a text file with a path a line
                (`.txt`, `.lst`, `.manifest`). Paths are relative to the manifest's folder;
            WebDataset's tar files (`.tar`, `.tar.gz`, `.tgz`) and Slim's TFRecords (with TensorFlow): the path is
                `shard:key` or `shard:number`.
        rows: of a table, at most.
        labels: "names" for a column `label` too, the name of a class or an integer: of a file the name of its folder;
            of a manifest, an archive or a TFRecord its label, null where there is none. "numbers": where these are
            numbers that the data has names for, the numbers.

    Raises:
        UsageError: nothing there, no images in it, a manifest that cannot be read, a package that is missing.
    """
    pa = need("pyarrow", "data", inputs)
    for argument in [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs:
        tables, found = _tables(os.fspath(argument), rows, pa, labels), False
        for table in tables:
            found = found or len(table) > 0
            yield table
        if not found:
            raise UsageError(f"No images in {argument!r}. Looked for files that end in {', '.join(IMAGE_SUFFIXES)}.")


def image_rows(file):
    """Yields (path, bytes) of the images of a file as `image_tables` takes it; without its labels.

    In place of the bytes None where the path is to be read, an `ImageError` where there is nothing to read.
    """
    kind = kind_of(file)
    if kind == "table":
        for table in _manifest(file, 256, need("pyarrow", "data", file), None):
            inside, paths = "bytes" in table.column_names, table["path"].to_pylist()
            for path, data in zip(paths, table["bytes"].to_pylist() if inside else paths):
                yield path or file, ImageError("Its row has no image.") if not data else data if inside else None
    else:
        read = {"image": _one, "list": _lines}.get(kind, partial(_members, names=False))
        yield from ((path, content) for path, content, _ in read(file))


def _tables(argument, rows, pa, labels):
    """The tables of an argument; neighbors of one kind share a table."""
    for kind, files in itertools.groupby(_files(argument), kind_of):
        if kind == "table":
            for file in files:
                for table in _manifest(file, rows, pa, labels):
                    if "error" in table.column_names:
                        raise UsageError(f"{file} has a column called error, as the answers have. Rename it.")
                    yield table
        else:
            read = {"image": _one, "list": _lines}.get(kind, partial(_members, names=labels == "names"))
            yield from _gathered((row for file in files for row in read(file)), rows, pa, labels)


def kind_of(file):
    """What a file is by its name: "records", "table", "list", "tar" or "image"."""
    name = os.path.basename(file).lower()
    if ".tfrecord" in name or ("-of-" in name and "." not in name):
        return "records"
    suffix = os.path.splitext(name)[1]
    if name.endswith((".tar", ".tar.gz", ".tgz")):
        return "tar"
    return "table" if suffix in SUFFIXES else "list" if suffix in _LISTS else "image"


def _files(argument):
    """Yields the files that a path, a URL or a pattern stands for."""
    if is_url(argument):
        yield from _remote_files(argument)
        return
    path = os.path.expanduser(argument)
    matches = [path] if os.path.exists(path) else _sorted(glob.iglob(path, recursive=True))
    match = None
    for match in matches:
        if not os.path.isdir(match):
            yield match
        elif os.path.exists(path) or not _matches_all_below(path):
            tables = glob.iglob(f"{glob.escape(match)}/**/*.parquet", recursive=True) if _is_table(match) else ()
            yield from _sorted(tables or iterate_images(match))
    if match is None:
        raise UsageError(f"No such file or directory, and no pattern that matches one: {argument!r}.")


def _matches_all_below(pattern):
    """Whether a pattern matches, beside a folder, all that is in it too."""
    return pattern.endswith("**") or ("**" in pattern and pattern.endswith("/*"))


def _is_table(folder):
    """Whether a folder is one of Parquet files, as Spark writes them."""
    return folder.rstrip("/\\").lower().endswith(".parquet")


def _remote_files(url):
    filesystem, path = open_filesystem(url)
    wanted = (lambda name: name.endswith(".parquet")) if _is_table(path) else is_image_name
    with raising(UsageError, f"{url} cannot be listed", Exception):  # each filesystem has its own
        if filesystem.isfile(path):
            yield url
            return
        found, pattern = {path: {"type": "directory"}}, glob.has_magic(path) and not filesystem.exists(path)
        if pattern:
            found = filesystem.glob(path, detail=True)
        for match, facts in sorted(found.items()):
            if match.count("/.") > path.count("/."):  # no shell's pattern matches what is hidden
                continue
            if facts["type"] != "directory":
                yield filesystem.unstrip_protocol(match)
            elif not (pattern and _matches_all_below(path)):
                yield from (filesystem.unstrip_protocol(file) for file in _below(filesystem, match, wanted))


def _below(filesystem, folder, wanted):
    """The wanted files below a folder. fsspec's `walk` leaves out folders that cannot be listed, without a word."""
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        for entry in filesystem.ls(folder, detail=True):
            path = entry["name"].rstrip("/")
            name = path.rpartition("/")[2]
            if entry["type"] != "directory":
                if wanted(name):
                    yield path
            elif path != folder.rstrip("/") and not name.startswith("."):  # some list the folder itself
                waiting.append(path)


def _sorted(names):
    names = iter(names)
    while some := sorted(itertools.islice(names, _SORTED)):
        yield from some


def _lines(file):
    with _readable(file), open_binary(file) as opened:
        for line in io.TextIOWrapper(opened, "utf-8-sig", "surrogateescape"):
            path, bare = _beside(file, line.rstrip("\r\n")), line.strip()
            if bare:
                yield from _one(path if os.path.lexists(path) else _beside(file, bare))


def _one(file):
    yield file, None, os.path.basename(os.path.dirname(file))


def _members(file, names):
    from inception_tf.images.records import iterate_records
    from inception_tf.images.webdataset import iterate_tar

    with local_copy(file) as copy:
        found = iterate_tar(copy, file) if kind_of(file) == "tar" else iterate_records(copy, file, names)
        yield from ((path, content, _number(label)) for path, content, label in found)


def _gathered(found, rows, pa, labeled):
    """Tables of (path, bytes, or an `ImageError`, or None where the path is to be read; label)."""
    paths, data, errors, labels, size = [], [], [], [], 0

    def table():
        columns = {"path": pa.array(paths, pa.string())}
        if any(content is not None for content in data) or any(errors):
            columns |= {"bytes": pa.array(data, pa.binary()), "error": pa.array(errors, pa.string())}
        if labeled:
            columns["label"] = _labels(labels, pa)
        return pa.table(columns)

    for path, content, label in found:
        try:
            path.encode()
        except UnicodeEncodeError:  # a name that is no text, which Arrow does not hold
            if content is None:
                content = _content(path)
            path, label = (text and text.encode("utf-8", "backslashreplace").decode() for text in (path, label))
        bad = isinstance(content, ImageError)
        paths.append(path)
        data.append(None if bad else content)
        errors.append(str(content) if bad else None)
        labels.append(label)
        size += 0 if bad or content is None else len(content)
        if len(paths) == rows or size >= _BYTES:
            yield table()
            paths, data, errors, labels, size = [], [], [], [], 0
    if paths:
        yield table()


def _content(path):
    try:
        return Path(path).read_bytes()
    except OSError as error:
        return ImageError(f"Cannot be read: {error.strerror}.")


def _number(label):
    """A label as an integer where it is one, else as text; None where there is none."""
    text = "" if label is None else str(label)
    return int(text) if text.removeprefix("-").isdecimal() and len(text) < 19 else text or None


def _labels(labels, pa):
    """A column of labels, integers where all are."""
    numbers = all(isinstance(label, int) or label is None for label in labels)
    labels = labels if numbers else [None if label is None else str(label) for label in labels]
    return pa.array(labels, pa.int64() if numbers else pa.string())


def _manifest(file, rows, pa, labels):
    """The tables of a CSV or Parquet file: its columns, but that of the images as `path` or `bytes`."""
    read, first = _parquet_tables if file.lower().endswith(".parquet") else _csv_tables, 0
    with _readable(file), open_binary(file) as opened:
        for table in read(file, opened, rows, pa):
            if labels:
                *_, name, several = table_columns(file, table.column_names)
                if several:
                    raise UsageError(f"{file} has several labels an image. Expected one, in a column label.")
                named = dict(enumerate(hub_names(table.schema, name) or () if labels == "names" else ()))
                given = [named.get(label, label) for label in map(_number, table[name].to_pylist())]
                table = table.drop_columns(name).append_column("label", _labels(given, pa))
            yield _with_path(table, file, first, pa)
            first += len(table)


def _with_path(table, file, first, pa):
    def holds_images(name):
        kind = table[name].type
        return pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    lower = {name.lower(): name for name in reversed(table.column_names)}
    names = [lower[name] for name in ("path", *IMAGE_COLUMNS) if name in lower]
    contents = [lower[name] for name in _CONTENTS if name in lower]
    contents = contents if names else contents + table.column_names
    if not any(map(holds_images, contents)) and not names:
        raise UsageError(
            f"{file} has no column called {', '.join(IMAGE_COLUMNS)}. Received: {listed(table.column_names, 10)}"
        )
    name = next(filter(holds_images, contents + names), names[0] if names else None)
    column, taken = table[name], {"path", "bytes"} & set(table.column_names) - {name}
    numbers = [f"{file}:{first + i}" for i in range(len(table))]
    numbers = table["path"].to_pylist() if "path" in taken else numbers
    if pa.types.is_struct(column.type):  # Hugging Face's
        values = [value or {} for value in column.to_pylist()]
        data, paths = ([value.get(key) or None for value in values] for key in ("bytes", "path"))
        # The last part of a file's path is all that is kept there: it may come twice, so the row's number goes ahead.
        inside = numbers if "path" in taken else [":".join(filter(None, pair)) for pair in zip(numbers, paths)]
        rows = zip(paths, data, inside)
        paths = [_beside(file, path) if path and content is None else own for path, content, own in rows]
    elif holds_images(name):
        data, paths = column.to_pylist(), numbers
    else:
        data, paths = None, [path and _beside(file, str(path)) for path in column.to_pylist()]
    table = table.drop_columns([name, *taken]).add_column(0, "path", pa.array(paths, pa.string()))
    return table if data is None else table.append_column("bytes", pa.array(data, pa.binary()))


def _csv_tables(file, opened, rows, pa):
    delimiter = "\t" if file.lower().endswith(".tsv") else ","
    reader = csv.DictReader(io.TextIOWrapper(opened, "utf-8-sig", newline=""), delimiter=delimiter)
    while some := list(itertools.islice(reader, rows)):
        yield pa.table({name: pa.array([row[name] for row in some], pa.string()) for name in reader.fieldnames if name})


def _parquet_tables(file, opened, rows, pa):
    from pyarrow import parquet

    for batch in parquet.ParquetFile(opened).iter_batches(rows):
        yield pa.Table.from_batches([batch])


def _readable(file):
    """Turns what reading a manifest raises into a `UsageError` that names it."""
    return raising(UsageError, f"Cannot read {file}", OSError, ValueError, csv.Error)


def _beside(file, path):
    """A path as it is, or relative to the folder of the manifest it stands in."""
    if is_url(path):
        return path
    if is_url(file):
        return f"{file.rpartition('/')[0]}/{path}"
    return os.path.join(os.path.dirname(file), os.path.expanduser(path))
