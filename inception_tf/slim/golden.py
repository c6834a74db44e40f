"""Golden data: what the original graphs compute on weights and images that anyone can generate again.

The weights are a function of a variable's name and shape, the images of their number and size, so a golden file
holds no arrays but samples: of every end point its shape, mean, standard deviation, largest magnitude, and the values
at 64 recorded positions. It is how a network is proven whose graph TF-Slim on PyPI does not have.

The recipe, version 1
    `uniform(key, n)`: the first 4n bytes of SHAKE-128 (FIPS 202) of the key in UTF-8, read as n unsigned 32-bit
    little-endian integers, each shifted right by 8 and divided by 2^24. So u is in [0, 1), and exact in float32.
    s = 2u - 1, exact as well. All that follows is float32, one rounding an operation, in the order written.

    A variable `name` of n elements, in C order, from u = uniform(name, n), by the last part of its name:
        weights, pointwise_weights   s * limit, limit = float32(sqrt(6 / fan_in)), computed in float64, fan_in the
                                     product of all dimensions but the last
        depthwise_weights            the same, fan_in the product of the first two dimensions
        biases, beta, moving_mean    s * 0.1
        gamma                        1 + s * 0.2
        moving_variance              1 + s * 0.5
    Weights whose name ends in bottleneck_v1/conv3/weights or bottleneck_v2/conv3/weights, the last ones of a ResNet
    branch, have limit = float32(sqrt(6 / fan_in) / 8): 50 additions of full size would blow up.

    Image i, of height H, width W and C channels, is 0.5 * coarse + 0.5 * fine, where
        fine    s of uniform("images/{i}/fine", H*W*C), shaped H x W x C
        coarse  s of uniform("images/{i}/coarse", h*w*C), h = ceil(H/16), w = ceil(W/16), shaped h x w x C, every
                value repeated 16 times in both directions, cut to H x W
    Noise alone would average out in the deep layers.

What it cannot see: on random weights a tenth to a fifth of the deep channels are zero throughout (ReLU), and a wrong
number that only meets those changes nothing.
"""

import hashlib
import json
import math
from importlib import resources

import numpy as np

from inception_tf.errors import MismatchError, UsageError

RECIPE = "inception_tf.slim.golden, version 1"
SAMPLES = 64
_BRANCH_ENDS = ("bottleneck_v1/conv3/weights", "bottleneck_v2/conv3/weights")


def deterministic_weights(name, shape):
    """The value of a Slim variable, a function of its name and shape alone: see the recipe above.

    The scales keep activations within a few orders of magnitude through the deepest of Slim's networks.

    Args:
        name: the Slim variable's full name, such as `InceptionV4/Conv2d_1a_3x3/weights`.
        shape: its dimensions.

    Returns:
        A float32 array of that shape.

    Raises:
        UsageError: the name ends in none of the words that Slim gives to a layer's variables.
    """
    shape = tuple(int(size) for size in shape)
    signed = _signed(name, shape)
    kind = name.rpartition("/")[2]
    if kind in ("weights", "pointwise_weights", "depthwise_weights"):
        fan_in = math.prod(shape[:2] if kind == "depthwise_weights" else shape[:-1])
        return signed * np.float32(math.sqrt(6 / fan_in) / (8 if name.endswith(_BRANCH_ENDS) else 1))
    if kind in ("biases", "beta", "moving_mean"):
        return signed * np.float32(0.1)
    if kind == "gamma":
        return 1 + signed * np.float32(0.2)
    if kind == "moving_variance":
        return 1 + signed * np.float32(0.5)
    raise UsageError(f"No deterministic value for {name!r}: expected a layer's variable, such as conv1/weights.")


def deterministic_images(batch, height, width, channels=3):
    """Images that depend on nothing but their number and size: see the recipe above.

    Returns:
        A float32 array, batch x height x width x channels, in [-1, 1].
    """
    images = np.empty((batch, height, width, channels), np.float32)
    for i, image in enumerate(images):
        coarse = _signed(f"images/{i}/coarse", (-(-height // 16), -(-width // 16), channels))
        coarse = coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
        image[:] = np.float32(0.5) * coarse + np.float32(0.5) * _signed(f"images/{i}/fine", image.shape)
    return images


def record(end_points):
    """The golden form of end points.

    Args:
        end_points: a mapping of end point names to float arrays.

    Returns:
        A dict, end point name -> {shape, mean, std, max_abs, indices, values}, ready for JSON. `indices` are flat
        (C order) and ascending; mean and standard deviation are computed in float64. All are rounded to
        float32.
    """
    recorded = {}
    for name, array in end_points.items():
        array = np.asarray(array)
        indices = np.arange(array.size)
        if array.size > SAMPLES:  # one from each of 64 equal stretches: distinct, and spread over the feature map
            jitter = _uniform(f"samples/{name}", SAMPLES).astype(np.float64)
            indices = ((np.arange(SAMPLES) + jitter) * array.size / SAMPLES).astype(np.int64)
        mean, std, max_abs, *values = (float(str(np.float32(number))) for number in _numbers(array, indices))
        recorded[name] = {"shape": list(array.shape), "mean": mean, "std": std, "max_abs": max_abs}
        recorded[name] |= {"indices": indices.tolist(), "values": values}
    return recorded


def differences(case, end_points):
    """Compares end points with their golden form.

    Args:
        case: one case of a golden file (see `load`): its `end_points` are what `record` gives.
        end_points: a mapping of end point names to float arrays. It may hold more than the golden form does.

    Returns:
        A row for every golden end point, in order: (name, shape, worst |difference|, the same relative to the golden
        maximum). The worst is taken over the sampled values, the mean, the standard deviation and the
        maximum magnitude; it is NaN when any of them is.

    Raises:
        MismatchError: end points are missing or have another shape. The message lists them all.
    """
    problems, rows = [], []
    for name, wanted in case["end_points"].items():
        shape = tuple(wanted["shape"])
        if name not in end_points:
            problems.append(f"{name} is missing")
            continue
        array = np.asarray(end_points[name])
        if array.shape != shape:
            problems.append(f"{name} is {array.shape}, expected {shape}")
            continue
        expected = [wanted["mean"], wanted["std"], wanted["max_abs"], *wanted["values"]]
        difference = float(np.max(np.abs(_numbers(array, wanted["indices"]) - expected)))
        rows.append((name, shape, difference, relative(difference, wanted["max_abs"])))
    if problems:
        raise MismatchError("These end points do not fit the golden data: " + "; ".join(problems) + ".")
    return rows


def relative(difference, largest):
    """A difference over the largest magnitude of what it is a difference from."""
    return difference / max(largest, float(np.finfo(np.float32).tiny))


def networks():
    """The names of the networks whose golden data comes with the package."""
    return sorted(file.name[:-5] for file in _data().iterdir() if file.name.endswith(".json"))


def load(network):
    """Reads a network's golden file.

    Returns:
        A dict: `network`; `recipe`; `source`, where the original graph comes from and what ran it; and `cases`, a dict
        of runs of that graph: `arguments` of the network (in Slim's words), `base` whether only the base was built,
        `images` (N, H, W, C for `deterministic_images`), `variables` and `parameters` (their counts), and `end_points`.

    Raises:
        UsageError: no golden data for this network.
    """
    if network not in networks():
        raise UsageError(f"No golden data for {network!r}. There is some for: {', '.join(networks())}.")
    return json.loads(_data().joinpath(f"{network}.json").read_text())


def _data():
    return resources.files("inception_tf.slim").joinpath("golden_data")


def _uniform(key, count):
    stream = hashlib.shake_128(key.encode()).digest(4 * count)
    return (np.frombuffer(stream, "<u4") >> 8).astype(np.float32) * np.float32(2**-24)


def _signed(key, shape):
    return (_uniform(key, math.prod(shape)) * 2 - 1).reshape(shape)


def _numbers(array, indices):
    wide = array.astype(np.float64).ravel()
    return np.concatenate([[wide.mean(), wide.std(), np.abs(wide).max()], wide[indices]])
