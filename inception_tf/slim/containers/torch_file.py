"""The PyTorch ports of the 2015 network: the `.pth` of pytorch-fid and of torch-fidelity. PyTorch is not needed.

A file of `torch.save` is a pickle beside its tensors' numbers: in a zip archive, or, before PyTorch 1.6, one after
another. Only what a state dict is made of is unpickled; nothing in a file is run.
"""

import collections
import pickle
import zipfile

import numpy as np

from inception_tf.errors import CheckpointError, raising
from inception_tf.slim.graph_2015 import CLASSES, LOGITS, Weights2015, convolutions

_DTYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8"}
_WORDS = {"weights": "conv.weight", "gamma": "bn.weight", "beta": "bn.bias"}
_WORDS |= {"moving_mean": "bn.running_mean", "moving_variance": "bn.running_var"}
_HEAD = {"weights": "fc.weight", "biases": "fc.bias"}


class TorchWeights(Weights2015):
    """The weights of the 2015 network in a PyTorch state dict."""

    def __init__(self, path, tensors):
        self._tensors = tensors
        for convolution in convolutions():
            for word in _WORDS:
                if self.tensor(convolution, word) is None:
                    raise CheckpointError(f"{path} lacks {self._name(convolution, word)}: is it cut off?")
        super().__init__(path, "PyTorch state dict of 2015-12-05")

    @staticmethod
    def _name(convolution, word):
        return _HEAD[word] if convolution == LOGITS else f"{convolutions()[convolution][1]}.{_WORDS[word]}"

    def shape(self, convolution, word):
        tensor = self.tensor(convolution, word)
        return None if tensor is None else tensor.shape

    def tensor(self, convolution, word):
        tensor = self._tensors.get(self._name(convolution, word))
        if tensor is None:
            return None
        return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


def try_open(source, path):
    """The weights of the 2015 network in the `.pth` file `path`, or None where it is not called so.

    Raises:
        CheckpointError: it is no state dict, damaged, or another network's.
    """
    if path.suffix not in (".pth", ".pt") or not path.is_file():
        return None
    with raising(CheckpointError, f"{source} is no PyTorch state dict, or damaged", Exception):
        tensors = read_state_dict(path)
    classifier = tensors.get("fc.weight")
    if classifier is None or "Mixed_7c.branch3x3dbl_3b.conv.weight" not in tensors or classifier.shape[0] != CLASSES:
        raise CheckpointError(
            f"{source} is not the 2015 network of pytorch-fid or torch-fidelity, whose fc.weight has {CLASSES} rows: "
            "no other PyTorch file is read here."
        )
    return TorchWeights(source, tensors)


def read_state_dict(path):
    """The tensors of a state dict that `torch.save` wrote, a dict from names to arrays."""
    if not zipfile.is_zipfile(path):
        return _read_legacy(path)
    with zipfile.ZipFile(path) as archive:
        (pickled,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
        folder = pickled.removesuffix("data.pkl")
        with archive.open(pickled) as file:
            found = _Unpickler(
                file, lambda dtype, key, count: np.frombuffer(archive.read(f"{folder}data/{key}"), dtype)
            ).load()
    return _arrays(found)


def _read_legacy(path):
    storages = {}

    def storage(dtype, key, count):
        return storages.setdefault(key, np.empty(count, dtype))

    with path.open("rb") as file:
        for _ in range(3):  # a magic number, the version, facts of the system
            _Unpickler(file, None).load()
        found = _Unpickler(file, storage).load()
        for key in _Unpickler(file, None).load():
            count = int.from_bytes(file.read(8), "little")
            if count != len(storages[key]):
                raise ValueError(f"a tensor of {count} numbers, not {len(storages[key])}")
            storages[key][:] = np.frombuffer(file.read(storages[key].nbytes), storages[key].dtype)
    return _arrays(found)


def _arrays(found):
    """Strides are those of a view until now, since a storage may be read after the tensors of it are made."""
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}")
    return {name: make() for name, make in found.items() if callable(make)}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, storage):
        super().__init__(file)
        self._storage = storage

    def persistent_load(self, pid):
        _, dtype, key, _, count, *_ = pid
        return self._storage(dtype, key, count)

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")):
            return _tensor if name.endswith("v2") else lambda tensor, *_: tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")


def _tensor(storage, offset, shape, strides, *_):
    def make():
        last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides))
        if 0 in shape or not 0 <= last < len(storage):
            raise ValueError(f"a tensor of {shape} in {len(storage)} numbers")
        steps = [stride * storage.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)

    return make
