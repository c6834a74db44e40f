"""torch-fidelity, pytorch-fid and clean-fid on two folders, with given weights in place of their downloads.

    TORCH_PYTHON tools/_fid_torch.py make WEIGHTS.pth              writes random weights
    TORCH_PYTHON tools/_fid_torch.py run WEIGHTS.pth A B OUT       writes OUT/*.npy, OUT/*.npz and OUT/results.json
    TORCH_PYTHON tools/_fid_torch.py read WEIGHTS.pth A.npz B.npz  prints pytorch-fid's FID of two files of statistics
    TORCH_PYTHON tools/_fid_torch.py time WEIGHTS.pth A TOOL       prints images a second of a tool's features

Runs where those three are installed, which need not have TensorFlow; imports nothing of ours.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

KID = {"kid_subsets": 10, "kid_subset_size": 5}
SPLITS = 2


def network(weights=None):
    """torch-fidelity's extractor; without weights, of random ones of a trained network's size."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    kind = module.FeatureExtractorInceptionV3
    names = ["2048", "logits_unbiased"]
    if weights is not None:
        return kind("inception-v3-compat", names, feature_extractor_weights_path=str(weights))
    no_download = _replaced(module, "load_state_dict_from_url", lambda *_, **__: {})
    with no_download, _replaced(kind, "load_state_dict", lambda *_: None):
        built = kind("inception-v3-compat", names)
    random = torch.Generator().manual_seed(0)
    for name, value in built.state_dict().items():
        if name.endswith(("running_var", "bn.weight")):
            value.copy_(torch.rand(value.shape, generator=random) * 0.8 + 0.6)
        elif name.endswith(("bn.bias", "running_mean")):
            value.copy_(torch.rand(value.shape, generator=random) * 0.4 - 0.2)
        elif value.dim() == 4:
            value.copy_(torch.randn(value.shape, generator=random) * (1.6 / value[0].numel()) ** 0.5)
        elif name == "fc.weight":  # so that classes differ from image to image
            value.copy_(torch.randn(value.shape, generator=random))
    return built


@contextlib.contextmanager
def _replaced(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    yield
    setattr(owner, name, before)


def patch(weights):
    """Gives pytorch-fid and clean-fid the weights that they would download."""
    import cleanfid.features
    import cleanfid.inception_pytorch
    import pytorch_fid.inception

    class Wrapped(torch.nn.Module):
        """clean-fid's InceptionV3W around torch-fidelity's network, since the TorchScript file is not at hand."""

        def __init__(self, path, download=True, resize_inside=False):
            super().__init__()
            self.base, self.resize_inside = network(weights), resize_inside
            self.layers = torch.nn.Sequential(*list(self.base.children())[:-1])

        def forward(self, x):
            if self.resize_inside:
                return self.base(x.to(torch.uint8))[0]
            return self.layers((x - 128) / 128).flatten(1)

    def state_dict(*_, **__):
        return torch.load(weights, weights_only=True)

    cleanfid.features.InceptionV3W = Wrapped
    for module in (pytorch_fid.inception, cleanfid.inception_pytorch):
        module.load_state_dict_from_url = state_dict


def pytorch_fid_features(folder, batch=1):
    from pytorch_fid.fid_score import get_activations
    from pytorch_fid.inception import InceptionV3

    return get_activations(sorted(Path(folder).iterdir()), InceptionV3([3]), batch_size=batch)


def clean_features(folder, mode):
    from cleanfid.features import build_feature_extractor
    from cleanfid.fid import get_folder_features

    model = build_feature_extractor(mode, torch.device("cpu"), use_dataparallel=False)
    options = {"num_workers": 0, "batch_size": 1, "device": torch.device("cpu"), "verbose": False}
    return get_folder_features(str(folder), model, mode=mode, **options)


def torch_fidelity_features(folder, weights):
    from PIL import Image

    run, found = network(weights), []
    for file in sorted(Path(folder).iterdir()):
        pixels = np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1)
        found.append(run(torch.tensor(pixels)[None])[0].numpy())
    return np.concatenate(found)


def run(weights, a, b, out):
    import torch_fidelity
    from cleanfid.fid import fid_from_feats
    from pytorch_fid.fid_score import calculate_frechet_distance

    patch(weights)
    results, features = {}, {}
    for tool in (
        "torch-fidelity",
        "pytorch-fid",
        "clean-fid",
        "clean-fid legacy_tensorflow",
        "clean-fid legacy_pytorch",
    ):
        pair = []
        for folder in (a, b):
            if tool == "torch-fidelity":
                pair.append(torch_fidelity_features(folder, weights))
            elif tool == "pytorch-fid":
                pair.append(pytorch_fid_features(folder))
            else:
                pair.append(clean_features(folder, (tool.split() + ["clean"])[1]))
        features[tool] = pair
        for name, values in zip("ab", pair):
            np.save(Path(out, f"{tool} {name}.npy"), values)
    metrics = torch_fidelity.calculate_metrics(
        input1=str(a), input2=str(b), fid=True, kid=True, isc=True, prc=True, cuda=False, cache=False, verbose=False,
        batch_size=1, isc_splits=SPLITS, feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights), **KID,
    )  # fmt: skip
    from torch_fidelity.metric_kid import kid_features_to_metric

    pair = [torch.tensor(values).double() for values in features["torch-fidelity"]]
    # Its own KID is of float32 kernels, which a distance near 0 is lost in.
    metrics |= {f"{key}_float64": value for key, value in kid_features_to_metric(*pair, verbose=False, **KID).items()}
    results["torch-fidelity"] = {key: float(value) for key, value in metrics.items()}
    statistics = [(np.mean(f, axis=0), np.cov(f, rowvar=False)) for f in features["pytorch-fid"]]
    for name, (mu, sigma) in zip("ab", statistics):
        np.savez_compressed(Path(out, f"pytorch-fid {name}.npz"), mu=mu, sigma=sigma)
    results["pytorch-fid"] = float(calculate_frechet_distance(*statistics[0], *statistics[1]))
    for tool in features:
        if tool.startswith("clean-fid"):
            results[tool] = float(fid_from_feats(*features[tool]))
    Path(out, "results.json").write_text(json.dumps(results))


def read(weights, a, b):
    from pytorch_fid.fid_score import calculate_frechet_distance, compute_statistics_of_path

    pairs = [compute_statistics_of_path(str(path), None, 1, 2048, "cpu") for path in (a, b)]
    print(float(calculate_frechet_distance(*pairs[0], *pairs[1])))


def images_per_second(weights, folder, tool):
    patch(weights)
    count, start = len(list(Path(folder).iterdir())), time.perf_counter()
    if tool == "torch-fidelity":
        torch_fidelity_features(folder, weights)
    else:
        pytorch_fid_features(folder, batch=1 if tool.endswith("1") else 32)
    print(count / (time.perf_counter() - start))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "make":
        torch.save(network().state_dict(), arguments[0])
    else:
        {"run": run, "read": read, "time": images_per_second}[command](*arguments)
