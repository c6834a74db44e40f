"""Inception-v2: "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift" (arXiv
1502.03167), as TF-Slim's nets/inception_v2.py builds it. Shapes in comments are for 224×224 images and depth
multiplier 1.
"""

from functools import partial

import keras

from inception_tf.models import blocks
from inception_tf.models.blocks import Mixed, avg_pool, max_pool
from inception_tf.models.registry import network

BATCH_NORM = {"momentum": 0.9997, "epsilon": 1e-3, "scale": False}

conv = partial(blocks.conv, normalizer=BATCH_NORM, kernel_initializer="he_normal")
reduction = partial(conv, kernel_initializer=blocks.trunc_normal(0.09))
projection = partial(conv, kernel_initializer=blocks.trunc_normal(0.1))
linear = partial(conv, normalizer=None, activation=None)


@network(
    name="inception_v2",
    scope="InceptionV2",
    input_size=224,
    min_size=1,
    classes=1001,
    batch_norm=BATCH_NORM,
    backbone="Mixed_5c",
    heads=("Logits",),
    variants=({}, {"use_separable_conv": False}),
)
def InceptionV2(
    inputs,
    include_top=True,
    pooling=None,
    classes=1001,
    classifier_activation="softmax",
    dropout=0.2,
    depth_multiplier=1.0,
    min_depth=16,
    use_separable_conv=True,
    spatial_squeeze=True,
):
    """Inception-v2 (arXiv 1502.03167), the network of TF-Slim's nets/inception_v2.py.

    `use_separable_conv`: whether the first convolution is separable, without batch norm, as in TF-Slim and the
    published checkpoint; or a plain one with batch norm, as research/slim offers.
    """
    x = base(inputs, blocks.scaled(depth_multiplier, min_depth), use_separable_conv)
    if not include_top:
        return blocks.global_pool(x, pooling)
    x = blocks.pre_logits(x, 7, dropout, spatial_squeeze)  # 1×1×1024
    x = blocks.logits(x, "Logits", [linear("Conv2d_1c_1x1", classes, 1)], spatial_squeeze)  # 1001
    return blocks.predictions(x, None, classifier_activation)


def base(x, depth, use_separable_conv):
    """`inception_v2_base`: the output of Mixed_5c."""
    layers = [
        first_conv("Conv2d_1a_7x7", depth(64), use_separable_conv),  # 112×112×64
        max_pool("MaxPool_2a_3x3", 3, strides=2),  # 56×56×64
        projection("Conv2d_2b_1x1", depth(64), 1),  # 56×56×64
        conv("Conv2d_2c_3x3", depth(192), 3),  # 56×56×192
        max_pool("MaxPool_3a_3x3", 3, strides=2),  # 28×28×192
        mixed("Mixed_3b", depth, 64, (64, 64), (64, 96), avg_pool("AvgPool_0a_3x3"), 32),  # 28×28×256
        mixed("Mixed_3c", depth, 64, (64, 96), (64, 96), avg_pool("AvgPool_0a_3x3"), 64),  # 28×28×320
        strided("Mixed_4a", depth, (128, 160), (64, 96)),  # 14×14×576
        mixed("Mixed_4b", depth, 224, (64, 96), (96, 128), avg_pool("AvgPool_0a_3x3"), 128),  # 14×14×576
        mixed("Mixed_4c", depth, 192, (96, 128), (96, 128), avg_pool("AvgPool_0a_3x3"), 128),  # 14×14×576
        mixed("Mixed_4d", depth, 160, (128, 160), (128, 160), avg_pool("AvgPool_0a_3x3"), 96),  # 14×14×576
        mixed("Mixed_4e", depth, 96, (128, 192), (160, 192), avg_pool("AvgPool_0a_3x3"), 96),  # 14×14×576
        strided("Mixed_5a", depth, (128, 192), (192, 256)),  # 7×7×1024
        mixed("Mixed_5b", depth, 352, (192, 320), (160, 224), avg_pool("AvgPool_0a_3x3"), 128),  # 7×7×1024
        mixed("Mixed_5c", depth, 352, (192, 320), (192, 224), max_pool("MaxPool_0a_3x3"), 128),  # 7×7×1024
    ]
    for layer in layers:
        x = layer(x)
    return x


def first_conv(name, width, separable):
    """The first convolution. Separable, it has up to 8 depthwise filters a color, and a bias, no batch norm."""
    initializer = blocks.trunc_normal(1.0)
    if not separable:
        return conv(name, width, 7, strides=2, kernel_initializer=initializer)
    return keras.layers.SeparableConv2D(
        width,
        7,
        strides=2,
        padding="same",
        data_format="channels_last",
        depth_multiplier=min(width // 3, 8),
        activation="relu",
        depthwise_initializer=initializer,
        pointwise_initializer=initializer,
        name=name,
    )


def mixed(name, depth, direct, branch_1, branch_2, pool, pooled):
    """An Inception block: the 5×5 branch of Inception-v1 is two 3×3."""
    return Mixed(
        [
            [conv("Conv2d_0a_1x1", depth(direct), 1)],
            [reduction("Conv2d_0a_1x1", depth(branch_1[0]), 1), conv("Conv2d_0b_3x3", depth(branch_1[1]), 3)],
            [
                reduction("Conv2d_0a_1x1", depth(branch_2[0]), 1),
                conv("Conv2d_0b_3x3", depth(branch_2[1]), 3),
                conv("Conv2d_0c_3x3", depth(branch_2[1]), 3),
            ],
            [pool, projection("Conv2d_0b_1x1", depth(pooled), 1)],
        ],
        name=name,
    )


def strided(name, depth, branch_0, branch_1):
    """A block that halves the feature map."""
    return Mixed(
        [
            [
                reduction("Conv2d_0a_1x1", depth(branch_0[0]), 1),
                conv("Conv2d_1a_3x3", depth(branch_0[1]), 3, strides=2),
            ],
            [
                reduction("Conv2d_0a_1x1", depth(branch_1[0]), 1),
                conv("Conv2d_0b_3x3", depth(branch_1[1]), 3),
                conv("Conv2d_1a_3x3", depth(branch_1[1]), 3, strides=2),
            ],
            [max_pool("MaxPool_1a_3x3", 3, strides=2)],
        ],
        name=name,
    )
