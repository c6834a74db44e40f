"""Which engine gains from `fuse_for_inference`, as tools/bench_peers.py --variants measured it (README, Benchmarks)."""

from inception_tf.models.fused import fuse_for_inference

# ONNX Runtime and OpenVINO fold batch norm themselves, and gain nothing from the rest. TensorFlow pays more for the
# split behind a shared opening convolution than it gains.
PAYS = {"savedmodel": {"siblings": False}, "litert": {"siblings": True}}


def pays(form, fuse=None):
    """Whether to fuse for a format: as asked, and where `fuse` is None, where it pays."""
    return form in PAYS if fuse is None else bool(fuse)


def network_for(model, form, fuse=None):
    """The network to write in a format: the model itself, or fused."""
    return fuse_for_inference(model, **PAYS.get(form, {})) if pays(form, fuse) else model
