"""Inception-ResNet-v2: "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning" (arXiv
1602.07261), as research/slim's nets/inception_resnet_v2.py builds it. Shapes in comments are for 299×299 images.
"""

from functools import partial

import keras

from inception_tf.errors import UsageError
from inception_tf.models import blocks
from inception_tf.models.blocks import Mixed, Residual, Scope, avg_pool, max_pool
from inception_tf.models.registry import network

BATCH_NORM = {"momentum": 0.9997, "epsilon": 1e-3, "scale": False}


@network(
    name="inception_resnet_v2",
    scope="InceptionResnetV2",
    input_size=299,
    min_size=75,
    classes=1001,
    batch_norm=BATCH_NORM,
    backbone="Conv2d_7b_1x1",
)
def InceptionResNetV2(
    inputs,
    include_top=True,
    pooling=None,
    classes=1001,
    classifier_activation="softmax",
    dropout=0.2,
    aux_logits=False,
    activation="relu",
    activation_scales=(0.17, 0.1, 0.2),
    output_stride=16,
    align_feature_maps=False,
):
    """Inception-ResNet-v2 (arXiv 1602.07261), the network of research/slim's nets/inception_resnet_v2.py.

    `activation`, "relu" or "relu6", is that of all convolutions and residual units. `activation_scales` are the factors
    on the residuals of the 35×35, 17×17 and 8×8 units. `align_feature_maps` pads where Slim's published network does
    not, so that the maps' corners lie on the image's. `output_stride=8`, with `include_top=False`, ends the network at
    PreAuxLogits, dilated to twice the size: to load a whole checkpoint into it, leave out the rest with
    `exclude_scopes=["Mixed_7a", "Repeat_2", "Block8", "Conv2d_7b_1x1"]`.
    """
    check_options(include_top, activation, activation_scales, output_stride)
    conv = partial(blocks.conv, normalizer=BATCH_NORM, activation=activation)
    end_points = base(inputs, conv, activation, activation_scales, output_stride, align_feature_maps)
    x = list(end_points.values())[-1]
    if not include_top:
        return blocks.global_pool(x, pooling)

    aux = None
    if aux_logits:
        aux = Scope(aux_head(end_points["PreAuxLogits"], conv, classes), name="AuxLogits")(end_points["PreAuxLogits"])
    x = blocks.flattened_logits(x, classes, dropout)  # 1001
    return blocks.predictions(x, aux, classifier_activation)


def base(inputs, conv, activation, scales, output_stride, align_feature_maps):
    """`inception_resnet_v2_base`: the end points from Conv2d_1a_3x3 to Conv2d_7b_1x1, by name."""
    padding = "same" if align_feature_maps else "valid"
    loose = partial(conv, padding=padding)
    pool = partial(max_pool, padding=padding)
    strides, rate = (1, 2) if output_stride == 8 else (2, 1)
    layers = [
        loose("Conv2d_1a_3x3", 32, 3, strides=2),  # 149×149×32
        loose("Conv2d_2a_3x3", 32, 3),  # 147×147×32
        conv("Conv2d_2b_3x3", 64, 3),  # 147×147×64
        pool("MaxPool_3a_3x3", 3, strides=2),  # 73×73×64
        loose("Conv2d_3b_1x1", 80, 1),  # 73×73×80
        loose("Conv2d_4a_3x3", 192, 3),  # 71×71×192
        pool("MaxPool_5a_3x3", 3, strides=2),  # 35×35×192
        Mixed(
            [
                [conv("Conv2d_1x1", 96, 1)],
                [conv("Conv2d_0a_1x1", 48, 1), conv("Conv2d_0b_5x5", 64, 5)],
                [conv("Conv2d_0a_1x1", 64, 1), conv("Conv2d_0b_3x3", 96, 3), conv("Conv2d_0c_3x3", 96, 3)],
                [avg_pool("AvgPool_0a_3x3"), conv("Conv2d_0b_1x1", 64, 1)],
            ],
            name="Mixed_5b",
        ),  # 35×35×320
        Scope([block35(f"block35_{i}", conv, activation, scales[0]) for i in range(1, 11)], name="Repeat"),  # 35×35×320
        Mixed(
            [
                [loose("Conv2d_1a_3x3", 384, 3, strides)],
                [
                    conv("Conv2d_0a_1x1", 256, 1),
                    conv("Conv2d_0b_3x3", 256, 3),
                    loose("Conv2d_1a_3x3", 384, 3, strides),
                ],
                [pool("MaxPool_1a_3x3", 3, strides)],
            ],
            name="Mixed_6a",
        ),  # 17×17×1088
        Scope([block17(f"block17_{i}", conv, activation, scales[1], rate) for i in range(1, 21)], name="Repeat_1"),
        keras.layers.Identity(name="PreAuxLogits"),  # 17×17×1088
    ]
    if output_stride == 16:
        layers += [
            Mixed(
                [
                    [conv("Conv2d_0a_1x1", 256, 1), loose("Conv2d_1a_3x3", 384, 3, strides=2)],
                    [conv("Conv2d_0a_1x1", 256, 1), loose("Conv2d_1a_3x3", 288, 3, strides=2)],
                    [
                        conv("Conv2d_0a_1x1", 256, 1),
                        conv("Conv2d_0b_3x3", 288, 3),
                        loose("Conv2d_1a_3x3", 320, 3, strides=2),
                    ],
                    [pool("MaxPool_1a_3x3", 3, strides=2)],
                ],
                name="Mixed_7a",
            ),  # 8×8×2080
            Scope([block8(f"block8_{i}", conv, activation, scales[2]) for i in range(1, 10)], name="Repeat_2"),
            block8("Block8", conv, None, 1.0),  # 8×8×2080
            conv("Conv2d_7b_1x1", 1536, 1),  # 8×8×1536
        ]
    x, end_points = inputs, {}
    for layer in layers:
        x = end_points[layer.name] = layer(x)
    return end_points


def residual(name, branches, channels, conv, activation, scale):
    """A residual unit: branches side by side, a linear 1×1 convolution to the input's channels, added with a factor."""
    return Residual(
        [
            [Scope(branch, name=f"Branch_{i}") for i, branch in enumerate(branches)],
            conv("Conv2d_1x1", channels, 1, normalizer=None, activation=None),
        ],
        scale=scale,
        activation=activation,
        name=name,
    )


def block35(name, conv, activation, scale):
    branches = [
        [conv("Conv2d_1x1", 32, 1)],
        [conv("Conv2d_0a_1x1", 32, 1), conv("Conv2d_0b_3x3", 32, 3)],
        [conv("Conv2d_0a_1x1", 32, 1), conv("Conv2d_0b_3x3", 48, 3), conv("Conv2d_0c_3x3", 64, 3)],
    ]
    return residual(name, branches, 320, conv, activation, scale)


def block17(name, conv, activation, scale, rate):
    branches = [
        [conv("Conv2d_1x1", 192, 1)],
        [
            conv("Conv2d_0a_1x1", 128, 1),
            conv("Conv2d_0b_1x7", 160, (1, 7), dilation_rate=rate),
            conv("Conv2d_0c_7x1", 192, (7, 1), dilation_rate=rate),
        ],
    ]
    return residual(name, branches, 1088, conv, activation, scale)


def block8(name, conv, activation, scale):
    branches = [
        [conv("Conv2d_1x1", 192, 1)],
        [
            conv("Conv2d_0a_1x1", 192, 1),
            conv("Conv2d_0b_1x3", 224, (1, 3)),
            conv("Conv2d_0c_3x1", 256, (3, 1)),
        ],
    ]
    return residual(name, branches, 2080, conv, activation, scale)


def aux_head(x, conv, classes):
    """The layers of AuxLogits on PreAuxLogits `x`. Conv2d_2a_5x5 is as large as its input, despite its name."""
    pool, kernel = blocks.aux_pool("Conv2d_1a_3x3", x)
    return [
        pool,  # 5×5×1088
        conv("Conv2d_1b_1x1", 128, 1),  # 5×5×128
        conv("Conv2d_2a_5x5", 768, kernel, padding="valid"),  # 1×1×768
        keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="Flatten"),  # 768
        keras.layers.Dense(classes, name="Logits"),
    ]


def check_options(include_top, activation, scales, output_stride):
    if output_stride not in (8, 16) or (include_top and output_stride == 8):
        raise UsageError(
            "output_stride must be 16, or 8 with include_top=False. Received: "
            f"output_stride={output_stride!r}, include_top={include_top}"
        )
    if activation not in ("relu", "relu6"):
        raise UsageError(f'activation must be "relu" or "relu6". Received: activation={activation!r}')
    if len(scales) != 3:
        raise UsageError(f"activation_scales are three factors. Received: activation_scales={scales!r}")
