"""timm itself, in a Python that has it and torch: the environment variable TIMM_PYTHON names it.

    $TIMM_PYTHON tests/exports/run_timm.py facts tests/exports/timm_facts.json
    $TIMM_PYTHON tests/exports/run_timm.py outputs NETWORK WEIGHTS.safetensors IMAGES.npz OUTPUTS.npz

`facts` writes the names and shapes of timm's state dicts, but those of batch norm: a module with `conv.weight` has a
`bn` of as many channels, which is checked here. `outputs` loads a state dict, strictly, and runs it on images N×H×W×3:
features, logits, and of inception_v3 with aux_logits the auxiliary logits. Those of inception_v3 are computed without
counting the padding in average pooling; under `plain_` are the same with timm's own pooling, which does count it.
"""

import functools
import importlib.abc
import importlib.machinery
import json
import pathlib
import sys
from unittest import mock

import numpy as np
import torch

NETWORKS = ("inception_v3", "inception_v4", "inception_resnet_v2")
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


class Anything(type):
    def __getattr__(cls, name):
        return anything(name, name)


def anything(name, value):
    if name.startswith("__"):
        raise AttributeError(name)
    return value


class NoTorchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """timm imports torchvision, which has no wheel for every build of torch, and these networks do not use it."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__getattr__ = lambda name: anything(name, Anything(name, (torch.nn.Module,), {}))


def create(network, classes=1000, aux_logits=False):
    sys.meta_path.append(NoTorchvision())  # asked last: an installed one is found before
    import timm

    options = {"aux_logits": aux_logits} if network == "inception_v3" else {}
    return timm.create_model(network, pretrained=False, num_classes=classes, **options).eval()


def facts(path):
    networks = {}
    for network in NETWORKS:
        shapes = {name: list(tensor.shape) for name, tensor in create(network, aux_logits=True).state_dict().items()}
        plain = {name: shape for name, shape in shapes.items() if ".bn." not in name}
        norms = {}
        for name, shape in plain.items():
            if name.endswith(".conv.weight"):
                module = name.removesuffix("conv.weight") + "bn."
                norms |= {module + word: shape[:1] for word in BATCH_NORM} | {module + "num_batches_tracked": []}
        assert shapes == plain | norms
        networks[network] = plain
    lines = json.dumps(networks).replace("}, ", "},\n").replace("], ", "],\n")
    pathlib.Path(path).write_text(lines + "\n")


def outputs(network, weights, images, path):
    from safetensors.torch import load_file

    state = load_file(weights)
    classes = len(state[next(name for name in ("fc.bias", "last_linear.bias", "classif.bias") if name in state)])
    model = create(network, classes, aux_logits="AuxLogits.fc.bias" in state)
    model.load_state_dict(state, strict=True)
    images = torch.from_numpy(np.load(images)["images"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        results = run(model, images)
        if network == "inception_v3":
            results = {f"plain_{name}": array for name, array in results.items()}
            pool = functools.partial(torch.nn.functional.avg_pool2d, count_include_pad=False)
            with mock.patch("torch.nn.functional.avg_pool2d", pool):
                results |= run(model, images)
    np.savez(path, **results)


def run(model, images):
    seen = {}
    if getattr(model, "AuxLogits", None) is not None:
        model.Mixed_6e.register_forward_hook(lambda module, inputs, output: seen.update(x=output))
    features = model.forward_features(images)
    features = features[0] if isinstance(features, tuple) else features
    results = {"features": features.permute(0, 2, 3, 1).numpy(), "logits": model.forward_head(features).numpy()}
    return results | ({"aux_logits": model.AuxLogits(seen["x"]).numpy()} if seen else {})


if __name__ == "__main__":
    {"facts": facts, "outputs": outputs}[sys.argv[1]](*sys.argv[2:])
