"""LeNet: "Gradient-based learning applied to document recognition" (LeCun et al., 1998), as research/slim's
nets/lenet.py of tensorflow/models builds it, for MNIST. Shapes in comments are for 28×28 images.
"""

from functools import partial

import keras

from inception_tf.errors import UsageError
from inception_tf.models import blocks
from inception_tf.models.blocks import max_pool
from inception_tf.models.registry import network

initializer = blocks.trunc_normal(0.1)
conv = partial(blocks.conv, kernel_initializer=initializer)
pool = partial(max_pool, size=2, strides=2, padding="valid")
dense = partial(keras.layers.Dense, kernel_initializer=initializer)


@network(
    name="lenet",
    scope="LeNet",
    input_size=28,
    min_size=4,
    classes=10,
    backbone="pool2",
    channels=1,
    preprocessing="lenet",
    heads=("fc4",),
    top=("fc3",),
)
def LeNet(
    inputs,
    include_top=True,
    pooling=None,
    classes=10,
    classifier_activation="softmax",
    dropout=0.5,
):
    """LeNet for gray images, the network of research/slim's nets/lenet.py.

    Its fully connected layers depend on the image's size, which must be known with the top.
    """
    if include_top and None in inputs.shape[1:3]:
        height, width = inputs.shape[1:3]
        raise UsageError(f"lenet needs the image's size, for its fully connected layers. Received: {height}×{width}")
    x = conv("conv1", 32, 5)(inputs)  # 28×28×32
    x = pool("pool1")(x)  # 14×14×32
    x = conv("conv2", 64, 5)(x)  # 14×14×64
    x = pool("pool2")(x)  # 7×7×64
    if not include_top:
        return blocks.global_pool(x, pooling)

    x = keras.layers.Flatten(data_format="channels_last", name="Flatten")(x)  # 3136
    x = dense(1024, activation="relu", name="fc3")(x)  # 1024
    x = keras.layers.Dropout(dropout, name="dropout3")(x)
    x = dense(classes, name="fc4")(x)  # 10
    x = keras.layers.Identity(name="Logits")(x)
    return blocks.predictions(x, None, classifier_activation)
