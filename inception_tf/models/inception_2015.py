"""The Inception-v3 of 2015-12-05 (`classify_image_graph_def.pb`), on whose features FID, KID and Inception score rest.

It is TF-Slim's Inception-v3 with another pooling in the last block and without an auxiliary head. Its convolutions have
Slim's names here; `slim/graph_2015.py` knows those that they have in the graph.
"""

from inception_tf.models import blocks
from inception_tf.models.inception_v3 import base, linear
from inception_tf.models.registry import network


@network(
    name="inception_2015",
    scope="Inception2015",
    input_size=299,
    min_size=75,
    classes=1008,
    preprocessing="inception_2015",
    backbone="Mixed_7c",
    heads=("Logits",),
    shares_variables=True,
)
def Inception2015(
    inputs,
    include_top=True,
    pooling=None,
    classes=1008,
    classifier_activation="softmax",
    dropout=0.2,
    depth_multiplier=1.0,
    min_depth=16,
    spatial_squeeze=True,
):
    """The Inception-v3 of 2015-12-05, max pooling in its last block, the network of FID, KID and the Inception score.

    The graph has 1008 classes in the order of its own label map; eight were never used.
    """
    x = base(inputs, blocks.scaled(depth_multiplier, min_depth), blocks.max_pool("MaxPool_0a_3x3"))["Mixed_7c"]
    if not include_top:
        return blocks.global_pool(x, pooling)
    x = blocks.pre_logits(x, 8, dropout, spatial_squeeze)  # 1×1×2048: pool_3
    x = blocks.logits(x, "Logits", [linear("Conv2d_1c_1x1", classes, 1)], spatial_squeeze)  # 1008
    return blocks.predictions(x, None, classifier_activation)
