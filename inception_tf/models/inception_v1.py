"""Inception-v1 (GoogLeNet): "Going Deeper with Convolutions" (arXiv 1409.4842), as TF-Slim's nets/inception_v1.py
builds it: with batch norm, without auxiliary heads. Shapes in comments are for 224×224 images.
"""

from functools import partial

from inception_tf.models import blocks
from inception_tf.models.blocks import Mixed, max_pool
from inception_tf.models.registry import network

BATCH_NORM = {"momentum": 0.9997, "epsilon": 1e-3, "scale": False}

conv = partial(blocks.conv, normalizer=BATCH_NORM, kernel_initializer=blocks.trunc_normal(0.01))
linear = partial(blocks.conv, activation=None, kernel_initializer="he_normal")


@network(
    name="inception_v1",
    scope="InceptionV1",
    input_size=224,
    min_size=1,
    classes=1001,
    batch_norm=BATCH_NORM,
    backbone="Mixed_5c",
    heads=("Logits",),
)
def InceptionV1(
    inputs,
    include_top=True,
    pooling=None,
    classes=1001,
    classifier_activation="softmax",
    dropout=0.2,
    spatial_squeeze=True,
):
    """Inception-v1 or GoogLeNet (arXiv 1409.4842), the network of TF-Slim's nets/inception_v1.py."""
    x = base(inputs)
    if not include_top:
        return blocks.global_pool(x, pooling)
    x = blocks.pre_logits(x, 7, dropout, spatial_squeeze, strides=1, name="AvgPool_0a_7x7")  # 1×1×1024
    x = blocks.logits(x, "Logits", [linear("Conv2d_0c_1x1", classes, 1)], spatial_squeeze)  # 1001
    return blocks.predictions(x, None, classifier_activation)


def base(x):
    """`inception_v1_base`: the output of Mixed_5c."""
    layers = [
        conv("Conv2d_1a_7x7", 64, 7, strides=2),  # 112×112×64
        max_pool("MaxPool_2a_3x3", 3, strides=2),  # 56×56×64
        conv("Conv2d_2b_1x1", 64, 1),  # 56×56×64
        conv("Conv2d_2c_3x3", 192, 3),  # 56×56×192
        max_pool("MaxPool_3a_3x3", 3, strides=2),  # 28×28×192
        mixed("Mixed_3b", 64, (96, 128), (16, 32), 32),  # 28×28×256
        mixed("Mixed_3c", 128, (128, 192), (32, 96), 64),  # 28×28×480
        max_pool("MaxPool_4a_3x3", 3, strides=2),  # 14×14×480
        mixed("Mixed_4b", 192, (96, 208), (16, 48), 64),  # 14×14×512
        mixed("Mixed_4c", 160, (112, 224), (24, 64), 64),  # 14×14×512
        mixed("Mixed_4d", 128, (128, 256), (24, 64), 64),  # 14×14×512
        mixed("Mixed_4e", 112, (144, 288), (32, 64), 64),  # 14×14×528
        mixed("Mixed_4f", 256, (160, 320), (32, 128), 128),  # 14×14×832
        max_pool("MaxPool_5a_2x2", 2, strides=2),  # 7×7×832
        mixed("Mixed_5b", 256, (160, 320), (32, 128), 128, "Conv2d_0a_3x3"),  # 7×7×832
        mixed("Mixed_5c", 384, (192, 384), (48, 128), 128),  # 7×7×1024
    ]
    for layer in layers:
        x = layer(x)
    return x


def mixed(name, direct, branch_1, branch_2, pooled, conv_5x5="Conv2d_0b_3x3"):
    """An Inception block. The paper's 5×5 branch, Branch_2, is 3×3 in Slim; Mixed_5b has its own name for it."""
    return Mixed(
        [
            [conv("Conv2d_0a_1x1", direct, 1)],
            [conv("Conv2d_0a_1x1", branch_1[0], 1), conv("Conv2d_0b_3x3", branch_1[1], 3)],
            [conv("Conv2d_0a_1x1", branch_2[0], 1), conv(conv_5x5, branch_2[1], 3)],
            [max_pool("MaxPool_0a_3x3"), conv("Conv2d_0b_1x1", pooled, 1)],
        ],
        name=name,
    )
