"""What of `fuse_for_inference` an export has.

Folded batch norm and pooling behind the 1×1 convolution pay on every engine. Sibling 1×1 convolutions merged into one
do not: the split behind it costs more than it saves (`tools/bench_peers.py --variants`; README, Benchmarks).
"""

from inception_tf.models.fused import fuse_for_inference


def pays(fuse=None, precision=None):
    """Whether to fuse: as asked; where `fuse` is None, unless maps are quantized.

    A quantizer gives a pooling's input and the ReLU after it one range, so where a convolution was moved before the
    pooling, what is below zero would be cut before it is averaged.
    """
    return precision != "int8" if fuse is None else bool(fuse)


def network_for(model, fuse):
    """The network to write: the model itself, or fused."""
    return fuse_for_inference(model, siblings=False) if fuse else model
