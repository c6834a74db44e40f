"""Data sets of Hugging Face's `datasets` and of TensorFlow Datasets, through their own packages."""

from pathlib import Path

from inception_tf.errors import ImageError, UsageError, need, raising
from inception_tf.images.examples import Examples, named_or_numbered

PREFIXES = ("hf:", "tfds:")


class HuggingFaceExamples(Examples):
    """The rows of a `datasets.Dataset`. `_sources` are their numbers."""

    def read(self, index):
        image = self._rows[self._sources[index]][self._column]
        with raising(ImageError, f"Cannot read {image['path']}"):
            return image["bytes"] or Path(image["path"]).read_bytes()

    def _size(self, index):
        return None


def open_hub(name, labels=None, labels_offset=0):
    """The images of "hf:NAME" or "tfds:NAME", with ":SPLIT" behind ("train" without it).

    NAME is what `datasets.load_dataset` takes, or a folder that `Dataset.save_to_disk` wrote; what `tfds.load` takes.

    Args:
        name: as said.
        labels, labels_offset: see `sources.open_examples`. Default: the data set's own names.

    Raises:
        UsageError: the package is missing, or cannot open that; no images with a label.
    """
    kind, _, rest = name.partition(":")
    rest, split = rest.rsplit(":", 1) if ":" in rest[2:] else (rest, "train")
    with raising(UsageError, f"Cannot open {name}", Exception):  # these packages raise any
        if kind == "tfds":
            return _tfds(rest, split, labels, labels_offset)
        datasets = need("datasets", "data", name)
        saved = Path(rest)
        if (saved / "dataset_dict.json").is_file() or (saved / "state.json").is_file():
            found = datasets.load_from_disk(rest)
            if isinstance(found, dict):
                if split not in found:
                    raise UsageError(f"{rest} has no split {split}. It has: {', '.join(found)}")
                found = found[split]
        else:
            found = datasets.load_dataset(rest, split=split)
        return open_hugging_face(found, labels, labels_offset)


def open_hugging_face(dataset, labels=None, labels_offset=0):
    """The images of a `datasets.Dataset` with a column of images and one of labels. Arguments as of `open_hub`."""
    import datasets

    if not isinstance(dataset, datasets.Dataset):
        raise UsageError(f'Expected a datasets.Dataset, as dataset["train"] is. Received: {type(dataset).__name__}')
    columns = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    numbers = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.ClassLabel)]
    numbers = numbers or [name for name in ("label", "labels") if name in dataset.features]
    if not columns or not numbers:
        raise UsageError(f"Expected columns of images and of labels. Received: {', '.join(dataset.features)}")
    names = [f"row {i}" for i in range(len(dataset))]
    own = getattr(dataset.features[numbers[0]], "names", None)
    raw = list(dataset[numbers[0]])
    if any(isinstance(label, list) for label in raw):
        raise UsageError(f"Several labels an image are taken from CSV and Parquet files. Received: column {numbers[0]}")
    classes = named_or_numbered(raw, labels_offset, own if labels is None else labels, names)
    examples = HuggingFaceExamples(range(len(names)), *classes, names)
    examples._rows = dataset.cast_column(columns[0], datasets.Image(decode=False))
    examples._column = columns[0]
    return examples


def _tfds(name, split, labels, labels_offset):
    from inception_tf.images.datasets import open_dataset

    tfds = need("tensorflow_datasets", "data", f"tfds:{name}")
    options = {"split": split, "as_supervised": True, "with_info": True, "shuffle_files": False}
    data, info = tfds.load(name, decoders={"image": tfds.decode.SkipDecoding()}, **options)
    return open_dataset(data, info.features["label"].names if labels is None else labels, labels_offset)
