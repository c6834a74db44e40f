"""PyTorch: the weights of our models under timm's names, as a safetensors file.

timm numbers a branch's layers where Slim names them, so its names follow from a layer's position: `timm_layers`.
"""

import re

import keras
import numpy as np

from inception_tf.errors import ExportError
from inception_tf.exports.exchange import ExchangeFormat, classifier_weights, drops_background
from inception_tf.models.applications import weighted_layers
from inception_tf.models.blocks import Conv2D, Mixed
from inception_tf.slim.graph_2015 import convolutions

# The networks that timm has, and its names for their classifiers.
CLASSIFIERS = {"inception_v3": "fc", "inception_v4": "last_linear", "inception_resnet_v2": "classif"}
AUX_V3 = ("conv0", "conv1", "fc")


def to_timm(model, path, **options):
    """Writes a PyTorch state dict for timm's `inception_v3`, `inception_v4` or `inception_resnet_v2`.

    `timm.create_model("inception_v3", aux_logits=True, checkpoint_path=path)` takes it; `aux_logits` where the model
    has its auxiliary head, and `num_classes`, where they are not 1000. Images are prepared as for us: [-1, 1], which
    timm calls mean and standard deviation 0.5.

    timm's inception_v3 counts the padding in the average pooling of its blocks, TF-Slim does not: at the border timm
    divides by 9 where Slim divides by 6 or 4. So its outputs are not ours. On random weights and one 299×299 image the
    logits differ by up to 6% of the largest, the last feature map by up to 26%, at its corners. With
    `count_include_pad=False` in its calls of `avg_pool2d` both are equal within 3e-6. The other two networks, which
    pool as Slim does, are equal within 4e-6.

    Args:
        model: a model of this library of one of the three networks, with its top or without (timm's `num_classes=0`).
            The auxiliary head of inception_v3 goes with it; those of the others, which timm does not have, stay behind.
        path: the file, `….safetensors`.
        **options: of `formats.Options`: background, check, overwrite. The check reads the file back and compares it
            with the model, bit for bit.

    Returns:
        `path`, as a `Path`.

    Raises:
        UsageError: another network or other options than timm has, a bad `path`, the package safetensors is missing.
        ExportError: what was read back differs; nothing is left behind.
    """
    return Timm().export(model, path, **options)


class Timm(ExchangeFormat):
    """A safetensors file of a PyTorch state dict."""

    name = "timm"
    library, networks = "timm", CLASSIFIERS
    packages = ("safetensors",)

    def convert(self, export):
        return timm_state_dict(export.model, export.options.background)

    def save(self, export, network, path):
        from safetensors.numpy import save

        path.write_bytes(save(network, metadata={"format": "pt"}))  # save_file would make it its owner's only

    def check(self, export, network, path):
        from safetensors.numpy import load_file

        written = load_file(path)
        differing = [n for n in {**network, **written} if not _same(network.get(n), written.get(n))]
        if differing:
            raise ExportError(f"Not written: read back, {len(differing)} tensors differ, {differing[0]} first.")


def timm_state_dict(model, background=None):
    """A model's weights by timm's names, as numpy arrays in PyTorch's layout. Arguments and errors as `to_timm`."""
    drop = drops_background(model, background)
    tensors = {}
    for name, layer in timm_layers(model):
        if name.rpartition(".")[2] in ("fc", *CLASSIFIERS.values()):
            kernel, bias = classifier_weights(layer, drop)
            tensors |= {f"{name}.weight": kernel.T, f"{name}.bias": bias}
        elif layer.batch_norm:
            tensors[f"{name}.conv.weight"] = _kernel(layer)
            tensors |= _batch_norm(f"{name}.bn", layer.batch_norm)
        else:
            tensors |= {f"{name}.weight": _kernel(layer), f"{name}.bias": _array(layer.bias)}
    return {name: np.array(tensor, order="C") for name, tensor in tensors.items()}


def timm_layers(model):
    """The layers with weights of a model, each as (timm's name of its module, layer)."""
    network = model.card.network
    layers = [layer for layer in model.layers if layer.weights]
    for i, layer in enumerate(layers):
        if layer.name == "Logits":
            yield CLASSIFIERS[network], layer.layers[0]
        elif layer.name == "AuxLogits":
            if network == "inception_v3":
                weighted = [inner for inner in layer.layers if inner.weights]
                yield from ((f"AuxLogits.{name}", inner) for name, inner in zip(AUX_V3, weighted, strict=True))
        elif network == "inception_v3":
            for conv in weighted_layers([layer]):
                yield convolutions()[conv.kernel.path.removesuffix("/kernel")][1], conv
        elif network == "inception_v4":
            yield from _block(f"features.{i}", layer)
        elif layer.name.startswith("Repeat"):
            for j, unit in enumerate(layer.layers):
                yield from _block(f"{layer.name.lower()}.{j}", unit)
        else:
            yield from _block(re.sub(r"_\dx\d$", "", layer.name.lower()), layer)


def _block(name, layer):
    """A branch of one layer is a module, one of several a sequence of them from 0, pooling included.

    One that forks has its modules side by side in the block.
    """
    if isinstance(layer, Conv2D):
        yield name, layer
        return
    side_by_side, *after = layer.steps
    bare = [branch for branch in side_by_side if branch.weights]
    if isinstance(layer, Mixed) and len(side_by_side) == 2 and len(bare) == 1:  # a convolution beside a pooling
        yield f"{name}.conv", bare[0].layers[0]
        return
    for i, branch in enumerate(side_by_side):
        mark = "_" if any(isinstance(step, list) for step in branch.steps) else "."
        for j, step in enumerate(branch.steps):
            yield from _step(f"{name}.branch{i}" + (f"{mark}{j}" if len(branch.steps) > 1 else ""), step)
    yield from ((f"{name}.conv2d", conv) for conv in after)


def _step(name, step):
    if isinstance(step, list):
        yield from ((name + letter, layer) for letter, layer in zip("ab", step, strict=True))
    elif step.weights:
        yield name, step


def _array(variable):
    return keras.ops.convert_to_numpy(variable).astype("float32")


def _kernel(layer):
    """From height×width×in×out to out×in×height×width."""
    return _array(layer.kernel).transpose(3, 2, 0, 1)


def _batch_norm(name, layer):
    beta = _array(layer.beta)
    return {
        f"{name}.weight": np.ones_like(beta),  # Slim has no gamma
        f"{name}.bias": beta,
        f"{name}.running_mean": _array(layer.moving_mean),
        f"{name}.running_var": _array(layer.moving_variance),
        f"{name}.num_batches_tracked": np.array(0, "int64"),
    }


def _same(a, b):
    return a is not None and b is not None and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
