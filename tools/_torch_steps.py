"""timm's Inception-v3 in torch, as candidates of a benchmark.

It runs in a Python that has torch and timm, and needs nothing of this library.

form: "eager", "channels_last", or one of COMPILED: channels_last, by torch.compile. part: "full", or "head" for the
classifier alone.
"""

import contextlib
import os
import sys
from unittest.mock import MagicMock

try:
    import torch
except ImportError:
    sys.exit(f"{sys.executable} has no torch: name a Python that has with --torch-python or TORCH_PYTHON")
try:
    import torchvision  # noqa: F401
except ImportError:
    # timm imports it, and inception_v3 does not use it.
    names = "datasets models models.feature_extraction ops ops.misc transforms transforms.functional"
    sys.modules |= {f"torchvision.{name}": MagicMock() for name in names.split()} | {"torchvision": MagicMock()}
import timm

# By form, the mode of torch.compile.
COMPILED = {"compiled": "default", "graphs": "reduce-overhead"}


def probe(device):
    """Does nothing; tells of the device and of the versions, and fails where there is no such device."""
    _start(device)
    call = lambda: None  # noqa: E731
    call.facts = {"device": torch.cuda.get_device_name() if device == "gpu" else None}
    call.facts["versions"] = {"torch": torch.__version__, "timm": timm.__version__}
    return call


def inference(device, precision, form, batch, size, classes, count=1):
    """Logits of a batch of random images."""
    _start(device)
    model, images = _network(device, precision, form, batch, size, classes)
    model.eval()
    return _repeated(torch.inference_mode()(lambda: model(images)), device, count)


def training(device, precision, form, part, batch, size, classes, rate, count=1):
    """Steps of training on a batch of random images: softmax cross entropy, dropout 0.2, batch norm frozen, RMSProp."""
    place = _start(device)
    model, images = _network(device, "float32", form, batch, size, classes)
    labels = torch.arange(batch, device=place) % classes
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    if part == "head":
        model.requires_grad_(False)
        model.get_classifier().requires_grad_(True)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    update = torch.optim.RMSprop(trained, rate, alpha=0.9, momentum=0.9, eps=1.0)
    half = precision == "bfloat16"

    def step():
        update.zero_grad()
        with torch.autocast(place, torch.bfloat16) if half else contextlib.nullcontext():
            logits = model(images)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        update.step()
        return loss.detach()

    return _repeated(step, device, count, trained=sum(weight.numel() for weight in trained))


def _start(device):
    """torch's name of the device, after float32 products are to be proper ones."""
    if device == "gpu" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU")
    torch.manual_seed(0)
    if hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = False, True
    return "cuda" if device == "gpu" else "cpu"


def _network(device, precision, form, batch, size, classes):
    """The network and a batch of images in [-1, 1]."""
    place, dtype = "cuda" if device == "gpu" else "cpu", getattr(torch, precision)
    layout = torch.contiguous_format if form == "eager" else torch.channels_last
    model = timm.create_model("inception_v3", num_classes=classes, drop_rate=0.2)
    model = model.to(place, dtype, memory_format=layout)
    images = (torch.rand(batch, 3, size, size, device=place, dtype=dtype) * 2 - 1).to(memory_format=layout)
    if form in COMPILED:
        model.compile(mode=COMPILED[form], dynamic=False)
    return model, images


def _repeated(step, device, count, **facts):
    """A function that takes `count` steps, and returns when the device has done the last."""

    def call(count=count):
        for _ in range(count):
            result = step()
        if not result.flatten()[:1].isfinite().item():  # this waits
            sys.exit("what it computes is not finite")

    if device == "gpu":
        call(5)  # warm-up: CUDA graphs are recorded in the second
    call.facts = facts
    return call
