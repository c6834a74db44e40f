"""ResNet v2: "Identity Mappings in Deep Residual Networks" (arXiv 1603.05027), as TF-Slim's nets/resnet_v2.py builds
it: batch norm and ReLU before the convolutions, a block's stride in its last unit. Shapes in comments are for 299×299
images.
"""

from inception_tf.models import blocks
from inception_tf.models.blocks import BatchNorm, Conv2DSame, Residual, max_pool, scoped_batch_norm
from inception_tf.models.registry import network
from inception_tf.models.resnet_v1 import BATCH_NORM, UNITS, check_output_stride, classifier, conv, linear, stack


def resnet_v2(depth):
    """The constructor of ResNet v2 with `depth` layers."""

    def build(
        inputs,
        include_top=True,
        pooling=None,
        classes=1001,
        classifier_activation="softmax",
        output_stride=None,
        spatial_squeeze=True,
    ):
        """ResNet v2 (arXiv 1603.05027), the network of TF-Slim's nets/resnet_v2.py.

        `spatial_squeeze` stands for Slim's `global_pool` too: without it there are logits at every position.
        `output_stride` is the ratio of the image's side to the last feature map's: 4, 8, 16, or 32 where it is None.
        Below 32, dilated convolutions make up for the strides left out.
        """
        check_output_stride(output_stride)
        x = linear("conv1", 64, 7, strides=2, kind=Conv2DSame)(inputs)  # 150×150×64
        x = max_pool("pool1", 3, strides=2)(x)  # 75×75×64
        x = stack(x, UNITS[depth], bottleneck, output_stride)  # 10×10×2048
        x = BatchNorm(**scoped_batch_norm(BATCH_NORM), name="postnorm")(x)  # 10×10×2048
        if not include_top:
            return blocks.global_pool(x, pooling)
        return classifier(x, classes, classifier_activation, spatial_squeeze)  # 1001

    name = f"resnet_v2_{depth}"
    build.__name__ = build.__qualname__ = f"ResNetV2_{depth}"
    return network(
        name=name,
        scope=name,
        input_size=299,
        min_size=1,
        classes=1001,
        batch_norm=BATCH_NORM,
        arg_scope_pads=True,
        backbone="postnorm",
        heads=("logits",),
    )(build)


def bottleneck(width, strides, rate, widens):
    """`bottleneck`: 1×1 down to `width`, 3×3, 1×1 up to 4 × `width`; batch norm and ReLU before each of them."""
    shortcut = max_pool("shortcut", 1, strides) if strides > 1 else None
    if widens:
        shortcut = linear("shortcut", 4 * width, 1, strides)
    return Residual(
        [
            conv("conv1", width, 1),
            conv("conv2", width, 3, strides, dilation_rate=rate, kind=Conv2DSame),
            linear("conv3", 4 * width, 1),
        ],
        preact=BatchNorm(**scoped_batch_norm(BATCH_NORM), name="preact"),
        shortcut=shortcut,
        name="bottleneck_v2",
    )


ResNetV2_50, ResNetV2_101, ResNetV2_152 = (resnet_v2(depth) for depth in UNITS)
