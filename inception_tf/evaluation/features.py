"""The features of the 2015 network, of images from wherever they are kept, computed once."""

import dataclasses
import hashlib
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from inception_tf.errors import CheckpointError, UsageError, listed
from inception_tf.evaluation.feature_statistics import FeatureStatistics
from inception_tf.files import atomic_write
from inception_tf.images.image_sets import ImageSet, open_image_set, pixels
from inception_tf.images.resize_2015 import check_mode, resize_2015
from inception_tf.inference.classify import prepared
from inception_tf.inference.runtimes import runtime_for
from inception_tf.inference.table import fingerprint
from inception_tf.progress import Progress
from inception_tf.slim.download import home
from inception_tf.zoo import create_model, load_trained, resolve

NETWORK = "inception_2015"
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of some images.

    Attributes:
        values: float32 array N×2048, `pool_3`.
        names: the images' names, a list.
        skipped: a dict from the names of images that could not be read to the reason.
        mode, weights: as in `FeatureStatistics`.
    """

    values: np.ndarray
    names: list
    skipped: dict
    mode: str
    weights: str

    @property
    def statistics(self):
        """Their `FeatureStatistics`."""
        return FeatureStatistics(self.mode, self.weights).update(self.values)


class FeatureExtractor:
    """The 2015 network up to `pool_3`, fused, on whatever backend Keras has; or an export of it without its top.

    Args:
        model: a model of this library; what `load_model` takes: `classify_image_graph_def.pb`, its `.tgz`, a `.pth` of
            pytorch-fid, a `.keras` file; or an `.onnx`, `.tflite`, `.xml` or `.stablehlo` that was exported with
            `include_top=False` and `pooling="avg"`. Default: the published one, downloaded.
        resize: one of `MODES`.
        precision: of the arithmetic, one of `PRECISIONS`; an export has its own.
        batch: images at a time.

    Attributes:
        kernel: float32 array 2048×classes, the classifier's weights, for the Inception score; None where it has none.
        weights: a fingerprint of the weights, 16 hexadecimal digits.

    Raises:
        UsageError: another network, an unknown mode or precision; a precision for an export.
        CheckpointError, DownloadError: there is no such model, it is damaged, or cannot be downloaded.
    """

    def __init__(self, model=None, resize="tensorflow", precision="float32", batch=32):
        if precision not in PRECISIONS:
            raise UsageError(f"The precision must be one of {', '.join(PRECISIONS)}. Received: {precision!r}")
        if batch < 1:
            raise UsageError(f"The batch must be 1 at least. Received: {batch}")
        self.resize, self.precision, self.batch = check_mode(resize), precision, batch
        self._options = model, resize, precision, batch
        if isinstance(model, (str, Path)) and resolve(model).kind == "exported":
            self._open_export(Path(model))
        else:
            self._build(model)

    def _open_export(self, path):
        if self.precision != "float32":
            raise UsageError(f"{path} is exported in a precision of its own. Received: precision={self.precision!r}")
        run = runtime_for(path)(path)
        _check(run.card, path)
        if run.card.include_top or run.card.options.get("pooling") != "avg":
            raise UsageError(f'{path} gives no features: export with include_top=False and pooling="avg".')
        self.side, self.kernel = run.card.preprocessing["size"][0], None
        self.weights, self._run = fingerprint(path), run

    def _build(self, model):
        import keras

        from inception_tf.models.fused import fuse_for_inference
        from inception_tf.models.model import with_dtype

        if model is None:
            model = create_model(NETWORK, "imagenet")
        elif isinstance(model, (str, os.PathLike)):
            model = load_trained(model)
        _check(getattr(model, "card", None), getattr(model, "name", model))
        digest = hashlib.sha256()
        for value in model.get_weights():
            digest.update(np.ascontiguousarray(value))
        self.weights, self.side = digest.hexdigest()[:16], model.input_shape[1] or model.card.preprocessing["size"][0]
        self.kernel = None
        if model.has_top:
            kernel = next(value for value in model.classifier.weights if value.path.endswith("kernel"))
            self.kernel = keras.ops.convert_to_numpy(kernel).astype("float32").reshape(kernel.shape[-2:])
        if not model.card.fused:
            model = fuse_for_inference(model)
        if self.precision != "float32":
            model = with_dtype(model, self.precision)
        output = model.features if model.has_top else model.backbone_output
        network = keras.Model(model.inputs[0], output, name="features")
        compute = network.predict_on_batch
        if keras.backend.backend() == "jax":
            from inception_tf.inference.xla import jax_compiled

            compute = jax_compiled(network)

        def run(images):
            spare = self.batch - len(images)  # one shape, so that one function is traced
            images = np.pad(images, [(0, max(spare, 0)), (0, 0), (0, 0), (0, 0)])
            outputs = keras.ops.convert_to_numpy(keras.ops.cast(compute(images), "float32"))
            outputs = outputs.mean(axis=(1, 2)) if outputs.ndim == 4 else outputs
            return outputs[: len(outputs) - max(spare, 0)]

        self._run = run

    def prepare(self, image):
        """An image, H×W×3 of values 0 to 255, as the network takes it: 1×side×side×3."""
        return resize_2015(image, self.resize, self.side)[np.newaxis]

    def __call__(self, images):
        """Features float32 N×2048 of images: an array N×H×W×3, uint8 or 0 to 255, or a list of such H×W×3."""
        images = open_image_set(np.asarray(images)) if hasattr(images, "__array__") else list(images)
        read = images.read if hasattr(images, "read") else lambda i: pixels(images[i])
        parts = [
            self._run(
                np.concatenate([self.prepare(read(i)) for i in range(start, min(start + self.batch, len(images)))])
            )
            for start in range(0, len(images), self.batch)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, 2048), np.float32)

    def extract(self, source, skip=False, cache=True, label="features", pool=None):
        """The features of images, computed once: kept under `download.home()/features` for the next time.

        Args:
            source: what `open_image_set` takes.
            skip: whether images that cannot be read are left out, and listed.
            cache: whether to keep them and to take what is kept; those of arrays in memory never are.
            label: what the progress bar says.
            pool: a `RayPool` whose workers compute, where the model was given as a path that they have too.

        Returns:
            `Features`, in the order of the images.

        Raises:
            UsageError: no images; some that cannot be read, where `skip` is false; a pool for a model in memory.
            CheckpointError: the network answers NaN.
        """
        images = open_image_set(source)
        key = "\n".join([self.weights, self.resize, self.precision, str(self.side), images.stamp])
        kept = home() / "features" / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.npz"
        cache = cache and bool(images.stamp)
        found = _kept(kept, len(images)) if cache else None
        if found is None:
            found = self._extract_on(pool, images, label) if pool else self._extract(images, label)
            if cache and not found[2]:  # what cannot be read now may be readable the next time
                with atomic_write(kept, overwrite=True) as part:
                    np.savez(part, values=found[0], names=np.array(found[1], "U"))
        values, names, skipped = found
        if skipped and not skip:
            first = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
            raise UsageError(
                f"{len(skipped)} of {len(images)} images cannot be read; --skip-unreadable (skip=True) drops them. "
                f"{first}{'; …' if len(skipped) > 3 else ''}"
            )
        if not len(values):
            raise UsageError(f"No image of {len(images)} can be read: {listed(skipped)}")
        return Features(values, names, skipped, self.resize, self.weights)

    def _extract(self, images, label):
        values, names, skipped, waiting = [], [], {}, []

        def flush():
            if waiting:
                features = self._run(np.concatenate([image for _, image in waiting]))
                broken = [name for (name, _), row in zip(waiting, features) if not np.isfinite(row).all()]
                if broken:
                    raise CheckpointError(
                        f"The network answers NaN or infinity to {listed(broken)}: are its weights broken, or is "
                        f"{self.precision} too narrow?"
                    )
                values.append(features)
                names.extend(name for name, _ in waiting)
                waiting.clear()

        def prepare(index):
            return self.prepare(images.read(index))

        with Progress(label, len(images), "images") as progress:
            for name, image in zip(images.names, prepared(prepare, range(len(images)), 2 * self.batch)):
                if isinstance(image, Exception):
                    skipped[name] = str(image).removeprefix(f"{name}: ")
                else:
                    waiting.append((name, image))
                if len(waiting) == self.batch:
                    flush()
                progress.advance()
            flush()
        return np.concatenate(values) if values else np.zeros((0, 2048), np.float32), names, skipped

    def _extract_on(self, pool, images, label):
        if not isinstance(self._options[0], (str, os.PathLike, type(None))):
            raise UsageError(f"Workers need the model's path. Received: {type(self._options[0]).__name__}")
        size = 4 * self.batch
        spans = (range(start, min(start + size, len(images))) for start in range(0, len(images), size))
        pieces = ([(i, images.names[i], images._read(i)) for i in span] for span in spans)
        places, parts, skipped = [], [], {}
        with Progress(label, len(images), "images") as progress:
            for computed, values, unread in pool.map(_InWorker(*self._options), pieces):
                places += computed
                parts.append(values)
                skipped |= unread
                progress.advance(len(computed) + len(unread))
        values, order = np.concatenate([part for part in parts if len(part)] or parts), np.argsort(places)
        return values[order], [images.names[places[i]] for i in order], skipped


class _InWorker:
    """What a `RayPool` maps over lists of (place, name, what `ImageSet` reads): places, values, those skipped."""

    def __init__(self, *options):
        self.options, self.extractor = options, None

    def open(self):
        self.extractor = FeatureExtractor(*self.options)

    def __call__(self, piece):
        places, names, sources = zip(*piece)
        values, _, skipped = self.extractor._extract(ImageSet(names, sources.__getitem__), "")
        return [place for place, name in zip(places, names) if name not in skipped], values, skipped

    def failed(self, piece, why):
        return [], np.zeros((0, 2048), np.float32), {name: why for _, name, _ in piece}


def _check(card, what):
    if card is None or card.network != NETWORK:
        network = card.network if card else "no model of this library"
        raise UsageError(f"FID is of the features of {NETWORK}, the graph of 2015-12-05. Received: {what}, {network}")


def _kept(path, count):
    """The (features, names, {}) of `count` images in a file, None where it is missing, damaged or of fewer."""
    try:
        with np.load(path) as file:
            values, names = file["values"], file["names"].tolist()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return (values, names, {}) if len(values) == len(names) == count else None
