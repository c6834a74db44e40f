"""AlexNet version 2: "One weird trick for parallelizing convolutional neural networks" (arXiv 1404.5997), as TF-Slim's
nets/alexnet.py builds it: without local response normalization, the fully connected layers are convolutions. Shapes in
comments are for 224×224 images.
"""

from functools import partial

import keras

from inception_tf.models import blocks
from inception_tf.models.blocks import SqueezedConv2D, max_pool
from inception_tf.models.registry import network

conv = partial(blocks.conv, kernel_initializer="glorot_uniform", bias_initializer=keras.initializers.Constant(0.1))
pool = partial(max_pool, size=3, strides=2, padding="valid")
small = blocks.trunc_normal(0.005)


@network(
    name="alexnet_v2",
    scope="alexnet_v2",
    input_size=224,
    min_size=195,
    min_backbone_size=67,
    classes=1000,
    backbone="pool5",
    preprocessing="vgg",
    heads=("fc8",),
    top=("fc6", "fc7"),
)
def AlexNetV2(
    inputs,
    include_top=True,
    pooling=None,
    classes=1000,
    classifier_activation="softmax",
    dropout=0.5,
    spatial_squeeze=True,
):
    """AlexNet version 2 (arXiv 1404.5997), the network of TF-Slim's nets/alexnet.py.

    An image of 227×227 or more gives a map of logits, one for every 32 pixels; `spatial_squeeze` takes its mean.
    """
    layers = [
        conv("conv1", 64, 11, strides=4, padding="valid"),  # 54×54×64
        pool("pool1"),  # 26×26×64
        conv("conv2", 192, 5),  # 26×26×192
        pool("pool2"),  # 12×12×192
        conv("conv3", 384, 3),  # 12×12×384
        conv("conv4", 384, 3),  # 12×12×384
        conv("conv5", 256, 3),  # 12×12×256
        pool("pool5"),  # 5×5×256
    ]
    classifier = SqueezedConv2D if spatial_squeeze else blocks.Conv2D
    top = [
        conv("fc6", 4096, 5, padding="valid", kernel_initializer=small),  # 1×1×4096
        keras.layers.Dropout(dropout, name="dropout6"),
        conv("fc7", 4096, 1, kernel_initializer=small),  # 1×1×4096
        keras.layers.Dropout(dropout, name="dropout7"),
        classifier(classes, 1, activation=None, kernel_initializer=small, name="fc8"),  # 1000
    ]
    x = inputs
    for layer in layers + top if include_top else layers:
        x = layer(x)
    if not include_top:
        return blocks.global_pool(x, pooling)
    return blocks.predictions(x, None, classifier_activation)
