"""ResNet v2: "Identity Mappings in Deep Residual Networks" (arXiv 1603.05027), as TF-Slim's nets/resnet_v2.py builds
it: batch norm and ReLU before the convolutions, a block's stride in its last unit. Shapes in comments are for 299×299
images.
"""

from inception_tf.models.blocks import BatchNorm, Conv2DSame, Residual, max_pool, scoped_batch_norm
from inception_tf.models.resnet_v1 import BATCH_NORM, constructors, conv, linear, stack


def body(inputs, units, output_stride):
    """`resnet_v2` up to the last batch norm."""
    x = linear("conv1", 64, 7, strides=2, kind=Conv2DSame)(inputs)  # 150×150×64
    x = max_pool("pool1", 3, strides=2)(x)  # 75×75×64
    x = stack(x, units, bottleneck, output_stride)  # 10×10×2048
    return BatchNorm(**scoped_batch_norm(BATCH_NORM), name="postnorm")(x)  # 10×10×2048


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


ResNetV2_50, ResNetV2_101, ResNetV2_152 = constructors(
    2, "1603.05027", body, input_size=299, classes=1001, backbone="postnorm"
)
