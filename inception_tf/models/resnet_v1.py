"""ResNet v1: "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), as TF-Slim's nets/resnet_v1.py builds
it: a block's stride is in its last unit. Shapes in comments are for 224×224 images.
"""

from functools import partial

import keras

from inception_tf.errors import UsageError
from inception_tf.models import blocks
from inception_tf.models.blocks import Conv2DSame, Residual, Scope, max_pool
from inception_tf.models.registry import network

BATCH_NORM = {"momentum": 0.997, "epsilon": 1e-5}

conv = partial(blocks.conv, normalizer=BATCH_NORM, kernel_initializer="he_normal")
linear = partial(conv, normalizer=None, activation=None)

# The residual units of block1 to block4, by the network's depth.
UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def constructors(version, paper, body, **facts):
    """The constructors of a version of ResNet, by depth.

    Args:
        version: 1 or 2.
        paper: on arXiv.
        body: a function from inputs, `UNITS` of a depth and the output stride to the last feature map.
        **facts: those of `network` that the versions do not share.
    """

    def constructor(depth):
        def build(
            inputs,
            include_top=True,
            pooling=None,
            classes=facts["classes"],
            classifier_activation="softmax",
            output_stride=None,
            spatial_squeeze=True,
        ):
            if output_stride not in (None, 4, 8, 16, 32):
                raise UsageError(
                    f"output_stride must be 4, 8, 16, 32 or None. Received: output_stride={output_stride!r}"
                )
            x = body(inputs, UNITS[depth], output_stride)
            if not include_top:
                return blocks.global_pool(x, pooling)
            return classifier(x, classes, classifier_activation, spatial_squeeze)

        build.__doc__ = f"""ResNet v{version} (arXiv {paper}), the network of TF-Slim's nets/resnet_v{version}.py.

        `spatial_squeeze` stands for Slim's `global_pool` too: without it there are logits at every position.
        `output_stride` is the ratio of the image's side to the last feature map's: 4, 8, 16, or 32 where it is None.
        Below 32, dilated convolutions make up for the strides left out.
        """
        name = f"resnet_v{version}_{depth}"
        build.__name__ = build.__qualname__ = f"ResNetV{version}_{depth}"
        shared = {"min_size": 1, "batch_norm": BATCH_NORM, "arg_scope_pads": True, "heads": ("logits",)}
        return network(name=name, scope=name, **shared, **facts)(build)

    return [constructor(depth) for depth in UNITS]


def body(inputs, units, output_stride):
    """`resnet_v1` up to block4."""
    x = conv("conv1", 64, 7, strides=2, kind=Conv2DSame)(inputs)  # 112×112×64
    x = max_pool("pool1", 3, strides=2)(x)  # 56×56×64
    return stack(x, units, bottleneck, output_stride)  # 7×7×2048


def bottleneck(width, strides, rate, widens):
    """`bottleneck`: 1×1 down to `width`, 3×3, 1×1 up to 4 × `width`; batch norm after every convolution."""
    shortcut = max_pool("shortcut", 1, strides) if strides > 1 else None
    if widens:
        shortcut = conv("shortcut", 4 * width, 1, strides, activation=None)
    return Residual(
        [
            conv("conv1", width, 1),
            conv("conv2", width, 3, strides, dilation_rate=rate, kind=Conv2DSame),
            conv("conv3", 4 * width, 1, activation=None),
        ],
        shortcut=shortcut,
        activation="relu",
        name="bottleneck_v1",
    )


def stack(x, units, bottleneck, output_stride):
    """`stack_blocks_dense`: block1 to block4 of `units` residual units each.

    Strides that would take the feature map below the image's size / `output_stride` become dilation rates.
    """
    stride, rate = 4, 1
    for i, width in enumerate((64, 128, 256, 512)):
        layers = []
        for j in range(units[i]):
            step = 2 if j == units[i] - 1 and i < 3 else 1
            if stride == output_stride:
                unit = bottleneck(width, 1, rate, widens=j == 0)
                rate *= step
            else:
                unit = bottleneck(width, step, 1, widens=j == 0)
                stride *= step
            layers.append(Scope([unit], name=f"unit_{j + 1}"))
        x = Scope(layers, name=f"block{i + 1}")(x)
    return x


def classifier(x, classes, activation, spatial_squeeze):
    """The end points global_pool, logits, spatial_squeeze and predictions; without `spatial_squeeze` a map of them."""
    if spatial_squeeze:
        x = keras.layers.GlobalAveragePooling2D(keepdims=True, data_format="channels_last", name="global_pool")(x)
    x = linear("logits", classes, 1)(x)
    if spatial_squeeze:
        x = keras.layers.Reshape((classes,), name="spatial_squeeze")(x)
    return blocks.predictions(x, None, activation, name="predictions")


ResNetV1_50, ResNetV1_101, ResNetV1_152 = constructors(
    1, "1512.03385", body, input_size=224, classes=1000, preprocessing="vgg", backbone="block4"
)
