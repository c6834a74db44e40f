"""VGG: "Very Deep Convolutional Networks for Large-Scale Image Recognition" (arXiv 1409.1556), as TF-Slim's
nets/vgg.py builds it: the fully connected layers are convolutions. Shapes in comments are for 224×224 images.
"""

from functools import partial

import keras

from inception_tf.models import blocks
from inception_tf.models.blocks import Repeat, SqueezedConv2D, max_pool
from inception_tf.models.registry import network

conv = partial(blocks.conv, kernel_initializer="glorot_uniform")
pool = partial(max_pool, size=2, strides=2, padding="valid")


def vgg(layers, configuration, depths):
    """The constructor of VGG with `layers` layers, of which conv1 to conv5 have as many as `depths` says."""

    def build(
        inputs,
        include_top=True,
        pooling=None,
        classes=1000,
        classifier_activation="softmax",
        dropout=0.5,
        spatial_squeeze=True,
    ):
        x = inputs
        # 112×112×64, 56×56×128, 28×28×256, 14×14×512, 7×7×512
        for i, (repeats, filters) in enumerate(zip(depths, (64, 128, 256, 512, 512)), start=1):
            x = Repeat([conv(f"conv{i}_{j}", filters, 3) for j in range(1, repeats + 1)], name=f"conv{i}")(x)
            x = pool(f"pool{i}")(x)
        if not include_top:
            return blocks.global_pool(x, pooling)

        x = conv("fc6", 4096, 7, padding="valid")(x)  # 1×1×4096
        x = keras.layers.Dropout(dropout, name="dropout6")(x)
        x = conv("fc7", 4096, 1)(x)  # 1×1×4096
        x = keras.layers.Dropout(dropout, name="dropout7")(x)
        classifier = SqueezedConv2D if spatial_squeeze else blocks.Conv2D
        x = classifier(classes, 1, activation=None, name="fc8")(x)  # 1000
        return blocks.predictions(x, None, classifier_activation)

    build.__doc__ = f"""VGG-{layers}, configuration {configuration} (arXiv 1409.1556), of TF-Slim's nets/vgg.py.

    An image larger than 224×224 gives a map of logits, one for every 32 pixels; `spatial_squeeze` takes its mean.
    """
    build.__name__ = build.__qualname__ = f"VGG{layers}"
    return network(
        name=f"vgg_{layers}",
        scope=f"vgg_{layers}",
        input_size=224,
        min_size=224,
        min_backbone_size=32,
        classes=1000,
        backbone="pool5",
        preprocessing="vgg",
        heads=("fc8",),
        top=("fc6", "fc7"),
    )(build)


VGG16, VGG19 = vgg(16, "D", (2, 2, 3, 3, 3)), vgg(19, "E", (2, 2, 4, 4, 4))
