"""TF-Slim's Inception checkpoints, alive in Keras 3."""

import importlib
import importlib.util
import sys

__version__ = "0.1.0"

# Public names and where they live. Imported on first use, so that `import inception_tf` and `inception-tf --help` do
# not wait for Keras and TensorFlow.
_PUBLIC = {
    "create_model": "models.registry",
    "list_models": "models.registry",
    "end_points": "models.model",
    "feature_extractor": "models.model",
    "fuse_for_inference": "models.fused",
    "InceptionV1": "models.inception_v1",
    "InceptionV2": "models.inception_v2",
    "InceptionV3": "models.inception_v3",
    "InceptionV4": "models.inception_v4",
    "InceptionResNetV2": "models.inception_resnet_v2",
    "ResNetV1_50": "models.resnet_v1",
    "ResNetV1_101": "models.resnet_v1",
    "ResNetV1_152": "models.resnet_v1",
    "ResNetV2_50": "models.resnet_v2",
    "ResNetV2_101": "models.resnet_v2",
    "ResNetV2_152": "models.resnet_v2",
    "VGG16": "models.vgg",
    "VGG19": "models.vgg",
    "AlexNetV2": "models.alexnet",
    "LeNet": "models.lenet",
    "NetworkInNetwork": "models.nin",
    "open_checkpoint": "slim.checkpoint",
    "load_slim": "slim.load",
    "save_slim": "slim.save",
    "detect": "slim.detect",
    "verify": "slim.verify",
    "profile": "analysis.profile",
    "class_activation_maps": "analysis.class_maps",
    "grad_cam": "analysis.class_maps",
    "dense_model": "analysis.dense",
    "finetune": "training.finetune",
    "evaluate": "evaluation.evaluate",
    "Recipe": "training.recipe",
    "Phase": "training.recipe",
    "preprocess_input": "images.preprocessing",
    "decode_predictions": "images.labels",
    "open_examples": "images.sources",
    "open_engine": "inference.engines",
    "export_savedmodel": "export.savedmodel",
    "to_litert": "export.litert",
    "to_onnx": "export.onnx",
    "to_openvino": "export.openvino",
    "to_keras_applications": "export.keras_applications",
    "from_keras_applications": "export.keras_applications",
    "to_timm": "export.timm",
}

__all__ = sorted(_PUBLIC)


class _WithKeras:
    """Registers the library's layers as soon as Keras is imported, so that `keras.saving.load_model` finds them."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "keras":
            return None
        sys.meta_path.remove(_WithKeras)
        spec = importlib.util.find_spec("keras")
        if spec is None:
            return None
        run = spec.loader.exec_module

        def run_and_register(module):
            run(module)
            if f"{__name__}.models.blocks" not in sys.modules:  # else it is what asks for Keras
                importlib.import_module(f"{__name__}.models.model")

        spec.loader.exec_module = run_and_register
        return spec


if "keras" in sys.modules:
    importlib.import_module(f"{__name__}.models.model")
else:
    sys.meta_path.insert(0, _WithKeras)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__():
    return sorted([*globals(), *_PUBLIC])
