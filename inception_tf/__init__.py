"""TF-Slim's Inception checkpoints, alive in Keras 3."""

import importlib

__version__ = "0.2.0"

# Public names and the modules they live in. Imported on first use, so that `import inception_tf` and
# `inception-tf --help` do not wait for Keras and TensorFlow. The networks' constructors (`InceptionV3`, …) are further
# ones: `zoo` has one for every network that is registered.
_PUBLIC = {
    "Phase": "training.recipe",
    "Preprocessing": "images.layer",
    "Recipe": "training.recipe",
    "TablePredictor": "inference.table",
    "class_activation_maps": "analysis.class_maps",
    "classify": "inference.classify",
    "convert": "exports.convert",
    "create_model": "zoo",
    "decode_predictions": "images.labels",
    "dense_model": "analysis.dense",
    "detect": "slim.detect",
    "end_points": "models.model",
    "evaluate": "evaluation.evaluate",
    "export": "exports.formats",
    "export_fastest": "benchmark.fastest",
    "export_savedmodel": "exports.savedmodel",
    "feature_extractor": "models.model",
    "finetune": "training.finetune",
    "from_keras_applications": "exports.keras_applications",
    "from_pretrained": "exports.pretrained",
    "fuse_for_inference": "models.fused",
    "grad_cam": "analysis.class_maps",
    "list_models": "models.registry",
    "load_model": "zoo",
    "load_slim": "slim.load",
    "open_checkpoint": "slim.checkpoint",
    "open_engine": "inference.engines",
    "open_examples": "images.sources",
    "pipeline": "inference.pipeline",
    "preprocess_input": "images.preprocessing",
    "profile": "analysis.profile",
    "push_to_hub": "exports.pretrained",
    "save_pretrained": "exports.pretrained",
    "save_slim": "slim.save",
    "to_keras_applications": "exports.keras_applications",
    "to_litert": "exports.litert",
    "to_onnx": "exports.onnx",
    "to_openvino": "exports.openvino",
    "to_plain_keras": "models.plain",
    "to_timm": "exports.timm",
    "verify": "slim.verify",
}


# Modules under shorter names: `inception_tf.metrics.FID`.
_MODULES = {"metrics": "evaluation.fid_metric"}


def __getattr__(name):
    if name == "__all__":
        return sorted([*_PUBLIC, *_MODULES, *_zoo().constructors()])
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    if name[:1].isupper() and name in _zoo().constructors():
        return _zoo().constructors()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__getattr__("__all__")})


def _zoo():
    return importlib.import_module(f"{__name__}.zoo")
