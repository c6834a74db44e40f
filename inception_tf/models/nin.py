"""Network in Network (arXiv 1312.4400): an n×n convolution followed by 1×1 convolutions, a small perceptron at every
position of the feature map; global average pooling in place of fully connected layers. It has no Slim checkpoint.
Shapes in comments are for 224×224 images, or 32×32 ones.
"""

from functools import partial

import keras

from inception_tf.errors import UsageError
from inception_tf.models import blocks
from inception_tf.models.blocks import Scope, max_pool
from inception_tf.models.registry import network

conv = partial(blocks.conv, kernel_initializer="he_normal")

# For every block: kernel, strides, padding; the widths of its n×n convolution, of the 1×1 convolutions after it, and of
# the last one; whether dropout follows its pooling. The last block's width is the number of classes.
LAYOUTS = {
    # The authors' ImageNet network, published in Caffe's model zoo.
    "imagenet": [
        (11, 4, "valid", (96, 96, 96), False),  # 54×54×96
        (5, 1, "same", (256, 256, 256), False),  # 27×27×256
        (3, 1, "same", (384, 384, 384), True),  # 14×14×384
        (3, 1, "same", (1024, 1024, None), False),  # 7×7×classes
    ],
    # The paper's, for CIFAR-10.
    "cifar10": [
        (5, 1, "same", (192, 160, 96), True),  # 32×32×96
        (5, 1, "same", (192, 192, 192), True),  # 16×16×192
        (3, 1, "same", (192, 192, None), False),  # 8×8×classes
    ],
}
COUNTS = ({}, {"convolutions_1x1": 1}, {"convolutions_1x1": 0})


@network(
    name="nin",
    scope="NiN",
    input_size=224,
    min_size=11,
    classes=10,
    heads=("Logits",),
    variants=tuple({**layout, **count} for layout in ({}, {"layout": "cifar10"}) for count in COUNTS),
)
def NetworkInNetwork(
    inputs,
    include_top=True,
    pooling=None,
    classes=10,
    classifier_activation="softmax",
    dropout=0.5,
    depth_multiplier=1.0,
    min_depth=16,
    layout="imagenet",
    convolutions_1x1=2,
    fully_connected=False,
    rectified_logits=True,
    spatial_squeeze=True,
):
    """Network in Network (arXiv 1312.4400), for images of any size.

    `layout`: "imagenet", the authors' network for 224×224 images, or "cifar10", the paper's for 32×32 ones, which
    `input_shape` must then say. `convolutions_1x1`: how many 1×1 convolutions follow the n×n of every block, 2 in the
    paper; 0 makes it a plain network of the same widths. `fully_connected`: a fully connected layer on the last
    feature map in place of global average pooling, which the paper compares with; the image's size must then be known.
    `rectified_logits`: whether the last feature maps pass a ReLU, as all of the paper do. Without, it learns faster.
    """
    check(inputs, layout, convolutions_1x1, fully_connected and include_top, spatial_squeeze)
    depth = blocks.scaled(depth_multiplier, min_depth)
    x = inputs
    for i, (kernel, strides, padding, widths, drop) in enumerate(LAYOUTS[layout], start=1):
        first, middle, last = (width and depth(width) for width in widths)
        steps = block(kernel, strides, padding, (first, middle), last or classes, convolutions_1x1)
        if widths[-1] is None:
            *steps, classifier = steps
            classifier.activation = keras.activations.get("relu" if rectified_logits else None)
        if steps:
            x = Scope(steps, name=f"mlpconv{i}")(x)
        if widths[-1] is not None:
            x = max_pool(f"pool{i}", 3, strides=2)(x)
        if drop:
            x = keras.layers.Dropout(dropout, name=f"dropout{i}")(x)
    if not include_top:
        return blocks.global_pool(x, pooling)

    head = [classifier]
    if fully_connected:
        head += [
            keras.layers.Flatten(data_format="channels_last", name="Flatten"),
            keras.layers.Dropout(dropout, name="Dropout"),
            keras.layers.Dense(classes, name="fc"),
        ]
    x = blocks.logits(x, "Logits", head, spatial_squeeze and not fully_connected)
    return blocks.predictions(x, None, classifier_activation)


def block(kernel, strides, padding, widths, last, convolutions_1x1):
    """The layers of a block: an n×n convolution and the 1×1 ones; the last of them all is `last` wide."""
    first, middle = widths
    widths = [first, *[middle] * (convolutions_1x1 - 1), last] if convolutions_1x1 else [last]
    layers = [conv(f"Conv2d_0a_{kernel}x{kernel}", widths[0], kernel, strides, padding)]
    return layers + [conv(f"Conv2d_0{chr(ord('a') + i)}_1x1", width, 1) for i, width in enumerate(widths[1:], 1)]


def check(inputs, layout, convolutions_1x1, fully_connected, spatial_squeeze):
    """Raises a `UsageError` for options out of their range."""
    if layout not in LAYOUTS:
        raise UsageError(f"layout must be {' or '.join(LAYOUTS)}. Received: layout={layout!r}")
    if not isinstance(convolutions_1x1, int) or not 0 <= convolutions_1x1 <= 9:
        raise UsageError(
            f"convolutions_1x1 must be a whole number from 0 to 9. Received: convolutions_1x1={convolutions_1x1!r}"
        )
    if fully_connected and (None in inputs.shape[1:3] or not spatial_squeeze):
        raise UsageError(
            "fully_connected needs the image's height and width, and spatial_squeeze. "
            f"Received: {inputs.shape[1]}×{inputs.shape[2]}, spatial_squeeze={spatial_squeeze}"
        )
