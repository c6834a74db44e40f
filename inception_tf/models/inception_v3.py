"""Inception-v3: "Rethinking the Inception Architecture for Computer Vision" (arXiv 1512.00567), as TF-Slim's
nets/inception_v3.py builds it. Shapes in comments are for 299×299 images and depth multiplier 1.
"""

from functools import partial

import keras

from inception_tf.models import blocks
from inception_tf.models.blocks import Mixed, avg_pool, max_pool, reduced_kernel
from inception_tf.models.registry import network

BATCH_NORM = {"momentum": 0.9997, "epsilon": 1e-3, "scale": False}

conv = partial(blocks.conv, normalizer=BATCH_NORM, kernel_initializer="he_normal")
valid = partial(conv, padding="valid")
linear = partial(conv, normalizer=None, activation=None)


@network(
    name="inception_v3",
    scope="InceptionV3",
    input_size=299,
    min_size=75,
    classes=1001,
    batch_norm=BATCH_NORM,
    backbone="Mixed_7c",
)
def InceptionV3(
    inputs,
    include_top=True,
    pooling=None,
    classes=1001,
    classifier_activation="softmax",
    dropout=0.2,
    aux_logits=False,
    depth_multiplier=1.0,
    min_depth=16,
    spatial_squeeze=True,
    head_blocks=None,
):
    """Inception-v3 (arXiv 1512.00567), the network of TF-Slim's nets/inception_v3.py.

    `head_blocks`: blocks, such as ["Mixed_5d", "Mixed_6e"], whose features the classifier takes beside those of
    Mixed_7c: "Head2Toe" (arXiv 2201.03529). Slim has no such network.
    """
    depth = blocks.scaled(depth_multiplier, min_depth)
    end_points = base(inputs, depth)
    x = end_points["Mixed_7c"]
    if not include_top:
        return blocks.global_pool(x, pooling)

    aux = None
    if aux_logits:
        aux = blocks.logits(
            end_points["Mixed_6e"], "AuxLogits", aux_head(end_points["Mixed_6e"], depth, classes), spatial_squeeze
        )
    if head_blocks:
        x = blocks.pre_logits_of(head_blocks, end_points, dropout, spatial_squeeze)
    else:
        x = blocks.pre_logits(x, 8, dropout, spatial_squeeze)  # 1×1×2048
    x = blocks.logits(x, "Logits", [linear("Conv2d_1c_1x1", classes, 1)], spatial_squeeze)  # 1001
    return blocks.predictions(x, aux, classifier_activation)


def base(inputs, depth, last_pool=None):
    """`inception_v3_base`: the end points from Conv2d_1a_3x3 to Mixed_7c, by name. `last_pool` is in the last."""
    layers = [
        valid("Conv2d_1a_3x3", depth(32), 3, strides=2),  # 149×149×32
        valid("Conv2d_2a_3x3", depth(32), 3),  # 147×147×32
        conv("Conv2d_2b_3x3", depth(64), 3),  # 147×147×64
        max_pool("MaxPool_3a_3x3", 3, strides=2, padding="valid"),  # 73×73×64
        valid("Conv2d_3b_1x1", depth(80), 1),  # 73×73×80
        valid("Conv2d_4a_3x3", depth(192), 3),  # 71×71×192
        max_pool("MaxPool_5a_3x3", 3, strides=2, padding="valid"),  # 35×35×192
        mixed_35("Mixed_5b", depth, "Conv2d_0b_5x5", 32),  # 35×35×256
        mixed_35("Mixed_5c", depth, "Conv_1_0c_5x5", 64, "Conv2d_0b_1x1"),  # 35×35×288
        mixed_35("Mixed_5d", depth, "Conv2d_0b_5x5", 64),  # 35×35×288
        Mixed(
            [
                [valid("Conv2d_1a_1x1", depth(384), 3, strides=2)],
                [
                    conv("Conv2d_0a_1x1", depth(64), 1),
                    conv("Conv2d_0b_3x3", depth(96), 3),
                    valid("Conv2d_1a_1x1", depth(96), 3, strides=2),
                ],
                [max_pool("MaxPool_1a_3x3", 3, strides=2, padding="valid")],
            ],
            name="Mixed_6a",
        ),  # 17×17×768
        mixed_17("Mixed_6b", depth, depth(128)),  # 17×17×768
        mixed_17("Mixed_6c", depth, depth(160)),  # 17×17×768
        mixed_17("Mixed_6d", depth, depth(160)),  # 17×17×768
        mixed_17("Mixed_6e", depth, depth(192)),  # 17×17×768
        Mixed(
            [
                [conv("Conv2d_0a_1x1", depth(192), 1), valid("Conv2d_1a_3x3", depth(320), 3, strides=2)],
                [
                    conv("Conv2d_0a_1x1", depth(192), 1),
                    conv("Conv2d_0b_1x7", depth(192), (1, 7)),
                    conv("Conv2d_0c_7x1", depth(192), (7, 1)),
                    valid("Conv2d_1a_3x3", depth(192), 3, strides=2),
                ],
                [max_pool("MaxPool_1a_3x3", 3, strides=2, padding="valid")],
            ],
            name="Mixed_7a",
        ),  # 8×8×1280
        mixed_8("Mixed_7b", depth, "Conv2d_0b_3x1"),  # 8×8×2048
        mixed_8("Mixed_7c", depth, "Conv2d_0c_3x1", last_pool),  # 8×8×2048
    ]
    x, end_points = inputs, {}
    for layer in layers:
        x = end_points[layer.name] = layer(x)
    return end_points


def mixed_35(name, depth, conv_5x5, pooled, conv_1x1="Conv2d_0a_1x1"):
    """A block of the 35×35 feature maps. Mixed_5c names the convolutions of its 5×5 branch in its own way."""
    return Mixed(
        [
            [conv("Conv2d_0a_1x1", depth(64), 1)],
            [conv(conv_1x1, depth(48), 1), conv(conv_5x5, depth(64), 5)],
            [
                conv("Conv2d_0a_1x1", depth(64), 1),
                conv("Conv2d_0b_3x3", depth(96), 3),
                conv("Conv2d_0c_3x3", depth(96), 3),
            ],
            [avg_pool("AvgPool_0a_3x3"), conv("Conv2d_0b_1x1", depth(pooled), 1)],
        ],
        name=name,
    )


def mixed_17(name, depth, width):
    """A block of the 17×17 feature maps: 7×7 as 1×7 and 7×1, `width` channels between them."""
    return Mixed(
        [
            [conv("Conv2d_0a_1x1", depth(192), 1)],
            [
                conv("Conv2d_0a_1x1", width, 1),
                conv("Conv2d_0b_1x7", width, (1, 7)),
                conv("Conv2d_0c_7x1", depth(192), (7, 1)),
            ],
            [
                conv("Conv2d_0a_1x1", width, 1),
                conv("Conv2d_0b_7x1", width, (7, 1)),
                conv("Conv2d_0c_1x7", width, (1, 7)),
                conv("Conv2d_0d_7x1", width, (7, 1)),
                conv("Conv2d_0e_1x7", depth(192), (1, 7)),
            ],
            [avg_pool("AvgPool_0a_3x3"), conv("Conv2d_0b_1x1", depth(192), 1)],
        ],
        name=name,
    )


def mixed_8(name, depth, conv_3x1, pool=None):
    """A block of the 8×8 feature maps: 1×3 and 3×1 side by side."""
    return Mixed(
        [
            [conv("Conv2d_0a_1x1", depth(320), 1)],
            [
                conv("Conv2d_0a_1x1", depth(384), 1),
                [conv("Conv2d_0b_1x3", depth(384), (1, 3)), conv(conv_3x1, depth(384), (3, 1))],
            ],
            [
                conv("Conv2d_0a_1x1", depth(448), 1),
                conv("Conv2d_0b_3x3", depth(384), 3),
                [conv("Conv2d_0c_1x3", depth(384), (1, 3)), conv("Conv2d_0d_3x1", depth(384), (3, 1))],
            ],
            [pool or avg_pool("AvgPool_0a_3x3"), conv("Conv2d_0b_1x1", depth(192), 1)],
        ],
        name=name,
    )


def aux_head(x, depth, classes):
    """The layers of AuxLogits on Mixed_6e `x`. The 5×5 convolution is as large as its input, and named after that."""
    pool, size = blocks.aux_pool("AvgPool_1a_5x5", x)
    height, width = reduced_kernel(size, 5)
    return [
        pool,  # 5×5×768
        conv("Conv2d_1b_1x1", depth(128), 1),  # 5×5×128
        valid(
            f"Conv2d_2a_{height}x{width}",
            depth(768),
            (height, width),
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.01),
        ),  # 1×1×768
        linear("Conv2d_2b_1x1", classes, 1, kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.001)),
    ]
