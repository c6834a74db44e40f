"""Inception-v4: "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning" (arXiv 1602.07261),
as research/slim's nets/inception_v4.py builds it. Shapes in comments are for 299×299 images.
"""

from functools import partial

import keras

from inception_tf.models import blocks
from inception_tf.models.blocks import Mixed, Scope, avg_pool, max_pool
from inception_tf.models.registry import network

BATCH_NORM = {"momentum": 0.9997, "epsilon": 1e-3, "scale": False}

conv = partial(blocks.conv, normalizer=BATCH_NORM, kernel_initializer="he_normal")
valid = partial(conv, padding="valid")


@network(
    name="inception_v4",
    scope="InceptionV4",
    input_size=299,
    min_size=75,
    classes=1001,
    batch_norm=BATCH_NORM,
    backbone="Mixed_7d",
)
def InceptionV4(
    inputs,
    include_top=True,
    pooling=None,
    classes=1001,
    classifier_activation="softmax",
    dropout=0.2,
    aux_logits=False,
):
    """Inception-v4 (arXiv 1602.07261), the network of research/slim's nets/inception_v4.py."""
    end_points = base(inputs)
    x = end_points["Mixed_7d"]
    if not include_top:
        return blocks.global_pool(x, pooling)

    aux = None
    if aux_logits:
        aux = Scope(aux_head(end_points["Mixed_6h"], classes), name="AuxLogits")(end_points["Mixed_6h"])
    x = blocks.flattened_logits(x, classes, dropout)  # 1001
    return blocks.predictions(x, aux, classifier_activation)


def base(inputs):
    """`inception_v4_base`: the end points from Conv2d_1a_3x3 to Mixed_7d, by name."""
    layers = [
        valid("Conv2d_1a_3x3", 32, 3, strides=2),  # 149×149×32
        valid("Conv2d_2a_3x3", 32, 3),  # 147×147×32
        conv("Conv2d_2b_3x3", 64, 3),  # 147×147×64
        Mixed(
            [
                [max_pool("MaxPool_0a_3x3", 3, strides=2, padding="valid")],
                [valid("Conv2d_0a_3x3", 96, 3, strides=2)],
            ],
            name="Mixed_3a",
        ),  # 73×73×160
        Mixed(
            [
                [conv("Conv2d_0a_1x1", 64, 1), valid("Conv2d_1a_3x3", 96, 3)],
                [
                    conv("Conv2d_0a_1x1", 64, 1),
                    conv("Conv2d_0b_1x7", 64, (1, 7)),
                    conv("Conv2d_0c_7x1", 64, (7, 1)),
                    valid("Conv2d_1a_3x3", 96, 3),
                ],
            ],
            name="Mixed_4a",
        ),  # 71×71×192
        Mixed(
            [
                [valid("Conv2d_1a_3x3", 192, 3, strides=2)],
                [max_pool("MaxPool_1a_3x3", 3, strides=2, padding="valid")],
            ],
            name="Mixed_5a",
        ),  # 35×35×384
        *(inception_a(f"Mixed_5{letter}") for letter in "bcde"),  # 35×35×384
        reduction_a("Mixed_6a"),  # 17×17×1024
        *(inception_b(f"Mixed_6{letter}") for letter in "bcdefgh"),  # 17×17×1024
        reduction_b("Mixed_7a"),  # 8×8×1536
        *(inception_c(f"Mixed_7{letter}") for letter in "bcd"),  # 8×8×1536
    ]
    x, end_points = inputs, {}
    for layer in layers:
        x = end_points[layer.name] = layer(x)
    return end_points


def inception_a(name):
    """`block_inception_a`, of the 35×35 feature maps."""
    return Mixed(
        [
            [conv("Conv2d_0a_1x1", 96, 1)],
            [conv("Conv2d_0a_1x1", 64, 1), conv("Conv2d_0b_3x3", 96, 3)],
            [conv("Conv2d_0a_1x1", 64, 1), conv("Conv2d_0b_3x3", 96, 3), conv("Conv2d_0c_3x3", 96, 3)],
            [avg_pool("AvgPool_0a_3x3"), conv("Conv2d_0b_1x1", 96, 1)],
        ],
        name=name,
    )


def reduction_a(name):
    """`block_reduction_a`: from 35×35 to 17×17."""
    return Mixed(
        [
            [valid("Conv2d_1a_3x3", 384, 3, strides=2)],
            [
                conv("Conv2d_0a_1x1", 192, 1),
                conv("Conv2d_0b_3x3", 224, 3),
                valid("Conv2d_1a_3x3", 256, 3, strides=2),
            ],
            [max_pool("MaxPool_1a_3x3", 3, strides=2, padding="valid")],
        ],
        name=name,
    )


def inception_b(name):
    """`block_inception_b`, of the 17×17 feature maps: 7×7 as 1×7 and 7×1."""
    return Mixed(
        [
            [conv("Conv2d_0a_1x1", 384, 1)],
            [
                conv("Conv2d_0a_1x1", 192, 1),
                conv("Conv2d_0b_1x7", 224, (1, 7)),
                conv("Conv2d_0c_7x1", 256, (7, 1)),
            ],
            [
                conv("Conv2d_0a_1x1", 192, 1),
                conv("Conv2d_0b_7x1", 192, (7, 1)),
                conv("Conv2d_0c_1x7", 224, (1, 7)),
                conv("Conv2d_0d_7x1", 224, (7, 1)),
                conv("Conv2d_0e_1x7", 256, (1, 7)),
            ],
            [avg_pool("AvgPool_0a_3x3"), conv("Conv2d_0b_1x1", 128, 1)],
        ],
        name=name,
    )


def reduction_b(name):
    """`block_reduction_b`: from 17×17 to 8×8."""
    return Mixed(
        [
            [conv("Conv2d_0a_1x1", 192, 1), valid("Conv2d_1a_3x3", 192, 3, strides=2)],
            [
                conv("Conv2d_0a_1x1", 256, 1),
                conv("Conv2d_0b_1x7", 256, (1, 7)),
                conv("Conv2d_0c_7x1", 320, (7, 1)),
                valid("Conv2d_1a_3x3", 320, 3, strides=2),
            ],
            [max_pool("MaxPool_1a_3x3", 3, strides=2, padding="valid")],
        ],
        name=name,
    )


def inception_c(name):
    """`block_inception_c`, of the 8×8 feature maps: 1×3 and 3×1 side by side."""
    return Mixed(
        [
            [conv("Conv2d_0a_1x1", 256, 1)],
            [
                conv("Conv2d_0a_1x1", 384, 1),
                [conv("Conv2d_0b_1x3", 256, (1, 3)), conv("Conv2d_0c_3x1", 256, (3, 1))],
            ],
            [
                conv("Conv2d_0a_1x1", 384, 1),
                conv("Conv2d_0b_3x1", 448, (3, 1)),
                conv("Conv2d_0c_1x3", 512, (1, 3)),
                [conv("Conv2d_0d_1x3", 256, (1, 3)), conv("Conv2d_0e_3x1", 256, (3, 1))],
            ],
            [avg_pool("AvgPool_0a_3x3"), conv("Conv2d_0b_1x1", 256, 1)],
        ],
        name=name,
    )


def aux_head(x, classes):
    """The layers of AuxLogits on Mixed_6h `x`. Conv2d_2a is as large as its feature map."""
    pool, kernel = blocks.aux_pool("AvgPool_1a_5x5", x)
    return [
        pool,  # 5×5×1024
        conv("Conv2d_1b_1x1", 128, 1),  # 5×5×128
        valid("Conv2d_2a", 768, kernel),  # 1×1×768
        keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="Flatten"),  # 768
        keras.layers.Dense(classes, name="Aux_logits"),
    ]
