"""CSV and Parquet files with a row for every image, its path or its bytes, and its label, as `Examples`."""

import csv
import json
import os
import re
from pathlib import Path

from inception_tf.errors import UsageError, listed, need, raising
from inception_tf.images.examples import named_or_numbered, several_labels
from inception_tf.images.folders import FolderExamples
from inception_tf.remote import is_url

SUFFIXES = (".csv", ".tsv", ".parquet")
IMAGE_COLUMNS = ("image", "path", "file", "filename", "file_name", "filepath", "image_path", "url", "uri")
_LABEL = ("label", "class", "category", "class_name", "target")
_LABELS = ("labels", "classes", "categories", "tags")


class TableExamples(FolderExamples):
    """The images of a table's rows. `_sources` are their paths, or their bytes."""

    def read(self, index):
        source = self._sources[index]
        return source if isinstance(source, bytes) else super().read(index)

    def _size(self, index):
        source = self._sources[index]
        return len(source) if isinstance(source, bytes) else super()._size(index)

    def described(self):
        return listed(self._tables)


def open_table(files, labels=None, labels_offset=0):
    """The images of CSV (.csv; .tsv with tabs) or Parquet files, which have a header or a schema.

    The column of the images is called image, path, file, filename, file_name, filepath, image_path, url or uri; that of
    the labels label, class, category, class_name or target. Paths are relative to the table's folder, or URLs. In a
    Parquet file, an image can also be a struct of bytes and path, as Hugging Face writes it; its names of the classes
    are then taken.

    Labels are names, whose classes are sorted unless `labels` gives their order, or all of them numbers.

    Where there is no such column, one called labels, classes, categories or tags has several names for an image, with |
    or ; between, or none: in Parquet, also lists of names; a column of numbers has one label an image there.

    Args:
        files: paths, of one kind.
        labels, labels_offset: see `sources.open_examples`.

    Raises:
        UsageError: no such columns; files with one label an image and with several; no rows; a label that is not among
            `labels`; pyarrow is missing.
    """
    sources, raw, names, skipped, kinds = [], [], [], {}, set()
    for file in map(Path, files):
        images, given, known, several = (_parquet if file.suffix.lower() == ".parquet" else _csv)(file)
        given, known = ([_split(label) for label in given], None) if several else (given, known)
        kinds.add(several)
        labels = known if labels is None else labels
        for number, (image, label) in enumerate(zip(images, given), 1):
            if isinstance(image, dict):  # Hugging Face's
                image, name = image.get("bytes") or image.get("path"), image.get("path") or f"{file.name}:{number}"
            else:
                name = image if isinstance(image, str) else f"{file.name}:{number}"
            if name in skipped or not image or label is None or label == "":
                skipped.setdefault(name or f"{file.name}:{number}", "its row has no image or no label")
                continue
            known = isinstance(image, bytes) or is_url(image)
            sources.append(image if known else os.path.join(file.parent, os.path.expanduser(image)))
            raw.append(label)
            names.append(name)
    if not sources:
        raise UsageError(f"{listed(files)} has no row with an image and a label.")
    if len(kinds) > 1:
        raise UsageError(f"Some files have one label an image, others several. Received: {listed(files)}")
    names = different(names)
    if kinds.pop():
        classes = several_labels(raw, labels_offset, labels)
    else:
        classes = named_or_numbered(raw, labels_offset, labels, names)
    examples = TableExamples(sources, *classes, names, skipped, files)
    examples.origins |= {os.path.abspath(source) for source in sources if isinstance(source, str)}
    examples._tables = [Path(file).name for file in files]
    return examples


def different(names):
    """The names, each with its row where one comes twice."""
    return names if len(set(names)) == len(names) else [f"{name} (row {i})" for i, name in enumerate(names, 1)]


def _split(labels):
    """The names in a cell of several, a list; each once."""
    parts = re.split(r"[|;]", labels) if isinstance(labels, str) else map(str, labels or ())
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _csv(file):
    """(images, labels, None, whether an image has several) of a CSV file."""
    failures = OSError, UnicodeDecodeError, csv.Error
    with raising(UsageError, f"Cannot read {file}", *failures), file.open(encoding="utf-8-sig", newline="") as opened:
        rows = csv.DictReader(opened, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        image, label, several = table_columns(file, rows.fieldnames or [])
        pairs = [(row[image], row[label]) for row in rows]
    return [image for image, _ in pairs], [label for _, label in pairs], None, several


def _parquet(file):
    """(images, labels, names of the classes or None, whether an image has several labels) of a Parquet file."""
    parquet, arrow = need("pyarrow.parquet", "data", file), need("pyarrow", "data", file)
    with raising(UsageError, f"Cannot read {file}", OSError, ValueError, arrow.ArrowException):
        schema = parquet.read_schema(file)
        *columns, several = table_columns(file, schema.names)
        several = several and not arrow.types.is_primitive(schema.field(columns[1]).type)  # a number is one label
        images, labels = (parquet.read_table(file, columns=[name])[name].to_pylist() for name in columns)
        return images, labels, hub_names(schema, columns[1]), several


def hub_names(schema, column):
    """The names of the classes that an Arrow schema of Hugging Face's gives a column of numbers; or None."""
    info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return info.get("info", {}).get("features", {}).get(column, {}).get("names")


def table_columns(file, names):
    """The names of the columns of the images and the labels, and whether an image has several of these."""
    lower = {name.lower(): name for name in reversed(names) if name}
    found = [next((lower[name] for name in kind if name in lower), None) for kind in (IMAGE_COLUMNS, _LABEL + _LABELS)]
    for column, kind in zip(found, (IMAGE_COLUMNS, _LABEL)):
        if column is None:
            raise UsageError(f"{file} has no column called {', '.join(kind)}. Received: {listed(names, 10)}")
    return *found, found[1].lower() in _LABELS
