"""Inception-v3 in torch, timm's or else torchvision's, as contestants of inception_tf.benchmark.

It runs in a Python that has torch and needs nothing of this library.
"""

import contextlib
import importlib.abc
import importlib.machinery
import sys

from _steps import repeated

try:
    import torch
except ImportError:
    sys.exit(f"{sys.executable} has no torch: name a Python that has with --torch-python or TORCH_PYTHON")

WARM_UP = 5  # steps on a GPU; torch records CUDA graphs in the second


def copy(device, size, count):
    """Reads a float32 vector of `size` and writes another.

    Tells of the device and of whose network there is, and fails where there is none.
    """
    place = _start(device)
    given = torch.rand(size, device=place)
    target = torch.empty_like(given)
    library, version, _ = source()
    facts = {"device": torch.cuda.get_device_name() if device == "gpu" else None}
    facts["versions"] = {"torch": torch.__version__, library: version}
    return _repeated(lambda: torch.add(given, 1, out=target), device, count, **facts)


def matmul(device, precision, side, count):
    """Multiplies two random square matrices."""
    place = _start(device, precision)
    dtype = _dtype(precision)
    left, right = (torch.rand(side, side, device=place).to(dtype) for _ in range(2))
    target = torch.empty_like(left)
    return _repeated(lambda: torch.mm(left, right, out=target), device, count)


def inference(device, precision, form, batch, size, classes, count=1):
    """Logits of a batch of random images.

    Args:
        form: "eager", "channels_last", or "compiled": channels_last, by torch.compile.
    """
    place = _start(device, precision)
    model, images = _network(form, batch, size, classes, place)
    model, images = model.eval().to(_dtype(precision)), images.to(_dtype(precision))
    model = _compiled(model, device) if form == "compiled" else model

    def step():
        with torch.inference_mode():
            return model(images)

    return _repeated(step, device, count)


def training(
    device, precision, form, batch, size, classes, count=1, optimizer="sgd", options=None, part="full", frozen=False
):
    """Steps of training on one batch of random images: softmax cross entropy, dropout 0.2.

    Args:
        form: as in `inference`.
        optimizer, options: "sgd" or "rmsprop" with torch's arguments.
        part: "full", or "head" for the classifier alone.
        frozen: whether batch norm normalises by its moving statistics.
    """
    place = _start(device, precision)
    model, images = _network(form, batch, size, classes, place)
    labels = torch.arange(batch, device=place) % classes
    model.train()
    for module in model.modules():
        if frozen and isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    if part == "head":
        model.requires_grad_(False)
        model.fc.requires_grad_(True)
    kinds = {"sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}
    update = kinds[optimizer]([weight for weight in model.parameters() if weight.requires_grad], **options or {})
    autocast = contextlib.nullcontext
    if precision == "bfloat16":
        autocast = lambda: torch.autocast(place, torch.bfloat16)  # noqa: E731

    def loss(images, labels):
        with autocast():
            logits = model(images)
        return torch.nn.functional.cross_entropy(logits.float(), labels)

    loss = _compiled(loss, device) if form == "compiled" else loss

    def step():
        update.zero_grad()
        value = loss(images, labels)
        value.backward()
        update.step()
        return value.detach()

    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return _repeated(step, device, count, trained=trained)


def _start(device, precision="float32"):
    """torch's name of the device, after the precision of its float32 products is set."""
    if device == "gpu" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    return "cuda" if device == "gpu" else "cpu"


def _dtype(precision):
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _repeated(step, on, count, **facts):
    def value(result):
        if on == "gpu":
            torch.cuda.synchronize()
        some = result[:1] if result.dim() else result
        return some.float().mean().item()

    return repeated(step, value, count, WARM_UP if on == "gpu" else 0, **facts)


def _compiled(function, device):
    """As fast as it gets on a GPU; for a processor, tuning a network takes longer than running it pays back."""
    return torch.compile(function, mode="max-autotune" if device == "gpu" else "default", dynamic=False)


def _network(form, batch, size, classes, place):
    """The network and a batch of images in [-1, 1]."""
    model = source()[2](classes).to(place)
    images = torch.rand(batch, 3, size, size, device=place) * 2 - 1
    if form != "eager":
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    return model, images


def source():
    """Whose network it is, of which version, and the function from a number of classes to it."""
    found = []
    for name, build in (("timm", _timm), ("torchvision", _torchvision)):
        try:
            return build()
        except ImportError as error:
            found.append(f"{name}: {error}")
    sys.exit(f"{sys.executable} has torch, but neither timm nor torchvision: {'; '.join(found)}")


def _timm():
    sys.meta_path.append(_NoTorchvision())
    try:
        import timm
    finally:
        sys.meta_path.pop()
    return (
        "timm",
        timm.__version__,
        lambda classes: timm.create_model("inception_v3", num_classes=classes, drop_rate=0.2),
    )


def _torchvision():
    import torchvision

    def build(classes):
        options = {"weights": None, "init_weights": False, "aux_logits": False, "transform_input": False}
        return torchvision.models.inception_v3(num_classes=classes, dropout=0.2, **options)

    return "torchvision", torchvision.__version__, build


class _NoTorchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Where torchvision is not installed: timm imports it, and inception_v3 does not use it."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__getattr__ = _anything


class _Anything(type):
    def __getattr__(cls, name):
        return _anything(name)


def _anything(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Anything(name, (torch.nn.Module,), {})
