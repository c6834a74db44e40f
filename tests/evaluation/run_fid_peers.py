"""torch-fidelity, pytorch-fid and clean-fid on two folders, with given weights in place of their downloads.

    TORCH_PYTHON run_fid_peers.py make WEIGHTS.pth              writes random weights
    TORCH_PYTHON run_fid_peers.py run WEIGHTS.pth A B OUT       writes OUT/*.npy, OUT/*.npz and OUT/results.json
    TORCH_PYTHON run_fid_peers.py read WEIGHTS.pth A.npz B.npz  prints pytorch-fid's FID of two files of statistics

Runs where those three are installed, which need not have TensorFlow; imports nothing of ours.
"""

import json
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

KID = {"kid_subsets": 10, "kid_subset_size": 5}
SPLITS = 2


def network(weights=None):
    """torch-fidelity's extractor; without weights, of random ones of a trained network's size."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    kind, names = module.FeatureExtractorInceptionV3, ["2048", "logits_unbiased"]
    if weights is not None:
        return kind("inception-v3-compat", names, feature_extractor_weights_path=str(weights))
    no_download = patch.object(module, "load_state_dict_from_url", lambda *_, **__: {})
    with no_download, patch.object(kind, "load_state_dict", lambda *_: None):
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


def no_downloads(weights):
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

    cleanfid.features.InceptionV3W = Wrapped
    for module in (pytorch_fid.inception, cleanfid.inception_pytorch):
        module.load_state_dict_from_url = lambda *_, **__: torch.load(weights, weights_only=True)


def features(tool, folder, weights):
    """What a tool computes of a folder's images, an array of a row an image."""
    from cleanfid.features import build_feature_extractor
    from cleanfid.fid import get_folder_features
    from PIL import Image
    from pytorch_fid.fid_score import get_activations
    from pytorch_fid.inception import InceptionV3

    files, cpu = sorted(Path(folder).iterdir()), torch.device("cpu")
    if tool == "pytorch-fid":
        return get_activations(files, InceptionV3([3]), batch_size=1)
    if tool == "torch-fidelity":
        run, pixels = network(weights), [np.asarray(Image.open(file).convert("RGB")) for file in files]
        return np.concatenate([run(torch.tensor(image.transpose(2, 0, 1))[None])[0].numpy() for image in pixels])
    mode = (tool.split() + ["clean"])[1]
    model = build_feature_extractor(mode, cpu, use_dataparallel=False)
    options = {"num_workers": 0, "batch_size": 1, "device": cpu, "verbose": False}
    return get_folder_features(str(folder), model, mode=mode, **options)


def run(weights, a, b, out):
    import torch_fidelity
    from cleanfid.fid import fid_from_feats
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torch_fidelity.metric_kid import kid_features_to_metric

    no_downloads(weights)
    clean = ("clean-fid", "clean-fid legacy_tensorflow", "clean-fid legacy_pytorch")
    found = {
        tool: [features(tool, folder, weights) for folder in (a, b)]
        for tool in ("torch-fidelity", "pytorch-fid", *clean)
    }
    for tool, pair in found.items():
        for name, values in zip("ab", pair):
            np.save(Path(out, f"{tool} {name}.npy"), values)
    results = {tool: float(fid_from_feats(*found[tool])) for tool in clean}
    metrics = torch_fidelity.calculate_metrics(
        input1=str(a), input2=str(b), fid=True, kid=True, isc=True, prc=True, cuda=False, cache=False, verbose=False,
        batch_size=1, isc_splits=SPLITS, feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights), **KID,
    )  # fmt: skip
    # Its own KID is of float32 kernels, which a distance near 0 is lost in.
    pair = [torch.tensor(values).double() for values in found["torch-fidelity"]]
    metrics |= {f"{key}_float64": value for key, value in kid_features_to_metric(*pair, verbose=False, **KID).items()}
    results["torch-fidelity"] = {key: float(value) for key, value in metrics.items()}
    statistics = [(np.mean(f, axis=0), np.cov(f, rowvar=False)) for f in found["pytorch-fid"]]
    for name, (mu, sigma) in zip("ab", statistics):
        np.savez_compressed(Path(out, f"pytorch-fid {name}.npz"), mu=mu, sigma=sigma)
    results["pytorch-fid"] = float(calculate_frechet_distance(*statistics[0], *statistics[1]))
    Path(out, "results.json").write_text(json.dumps(results))


def read(weights, a, b):
    from pytorch_fid.fid_score import calculate_frechet_distance, compute_statistics_of_path

    pairs = [compute_statistics_of_path(str(path), None, 1, 2048, "cpu") for path in (a, b)]
    print(float(calculate_frechet_distance(*pairs[0], *pairs[1])))


def statistics(tool, weights, folder, batch):
    """For `tools/bench_fid.py`: a function that computes a folder's statistics as a tool's own command does."""
    import os

    from pytorch_fid.fid_score import compute_statistics_of_path
    from pytorch_fid.inception import InceptionV3
    from torch_fidelity.metric_fid import fid_input_id_to_statistics

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if tool == "pytorch-fid":
        no_downloads(weights)
        given = InceptionV3([3]).to(device), batch, 2048, device, min(8, len(os.sched_getaffinity(0)))
        return lambda: compute_statistics_of_path(str(folder), *given)
    options = {"input1": str(folder), "cache": False, "verbose": False, "cuda": device == "cuda", "batch_size": batch}
    extractor = network(weights).to(device)
    return lambda: fid_input_id_to_statistics(1, extractor, "2048", **options)


def distance(tool, pair):
    """For `tools/bench_fid.py`: a function that computes the distance of two means and covariances."""
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    with np.load(pair) as file:
        mu1, sigma1, mu2, sigma2 = (file[name] for name in ("mu1", "sigma1", "mu2", "sigma2"))
    if tool == "pytorch-fid":
        return lambda: calculate_frechet_distance(mu1, sigma1, mu2, sigma2)
    sides = ({"mu": mu1, "sigma": sigma1}, {"mu": mu2, "sigma": sigma2})
    return lambda: fid_statistics_to_metric(*sides, False)


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "make":
        torch.save(network().state_dict(), arguments[0])
    else:
        {"run": run, "read": read}[command](*arguments)
