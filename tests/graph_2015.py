"""The graph of 2015-12-05 with random weights, of the same names and operations, written by TensorFlow's own protocol
buffers alone. What is known of the original: shared/reference/graph_2015.md.
"""

import collections
import io
import itertools
import pickle
import sys
import types
import unittest.mock
import zipfile

import numpy as np

# A convolution: filters, (height, width) of its kernel, stride, padding.
STEM = [(32, (3, 3), 2, "VALID"), (32, (3, 3), 1, "VALID"), (64, (3, 3), 1, "SAME"), "pool"]
STEM += [(80, (1, 1), 1, "VALID"), (192, (3, 3), 1, "VALID"), "pool"]


def same(filters, *kernel):
    return filters, kernel if len(kernel) == 2 else (kernel[0], kernel[0]), 1, "SAME"


def strided(filters):
    return filters, (3, 3), 2, "VALID"


def mixed_35(pooled):
    return {
        "": [same(64, 1)],
        "tower": [same(48, 1), same(64, 5)],
        "tower_1": [same(64, 1), same(96, 3), same(96, 3)],
        "tower_2": ["AvgPool", same(pooled, 1)],
    }


def mixed_17(width):
    return {
        "": [same(192, 1)],
        "tower": [same(width, 1), same(width, 1, 7), same(192, 7, 1)],
        "tower_1": [same(width, 1), *[same(width, 7, 1), same(width, 1, 7)] * 2][:4] + [same(192, 1, 7)],
        "tower_2": ["AvgPool", same(192, 1)],
    }


def mixed_8(pool):
    fork = [same(384, 1, 3), same(384, 3, 1)]
    return {
        "": [same(320, 1)],
        "tower": [same(384, 1), fork],
        "tower_1": [same(448, 1), same(384, 3), fork],
        "tower_2": [pool, same(192, 1)],
    }


def blocks(last_pool):
    smaller = {"": [strided(384)], "tower": [same(64, 1), same(96, 3), strided(96)], "pool": []}
    smallest = {
        "tower": [same(192, 1), strided(320)],
        "tower_1": [same(192, 1), same(192, 1, 7), same(192, 7, 1), strided(192)],
        "pool": [],
    }
    return [
        *map(mixed_35, (32, 64, 64)),
        smaller,
        *map(mixed_17, (128, 160, 160, 192)),
        smallest,
        mixed_8("AvgPool"),
        mixed_8(last_pool),
    ]


class Builder:
    """Adds nodes to a GraphDef, with seeded weights of a trained network's size. `width`: a factor on all filters."""

    def __init__(self, width, seed):
        from tensorflow.compat.v1 import GraphDef

        self.graph, self.random, self.width = GraphDef(), np.random.default_rng(seed), width
        self.graph.versions.producer = 8
        self.channels = {}

    def node(self, op, name, *inputs, **attributes):
        import tensorflow as tf
        from tensorflow.core.framework import attr_value_pb2

        node = self.graph.node.add(op=op, name=name, input=inputs)
        for key, value in attributes.items():
            kinds = {str: "s", bool: "b", int: "i", float: "f", tf.DType: "type", list: "list"}
            kind = kinds.get(type(value), "tensor")
            if kind == "list":
                value = attr_value_pb2.AttrValue.ListValue(i=value)
                node.attr[key].list.CopyFrom(value)
            elif kind == "tensor":
                node.attr[key].tensor.CopyFrom(tf.make_tensor_proto(value))
            else:
                value = value.encode() if kind == "s" else value.as_datatype_enum if kind == "type" else value
                setattr(node.attr[key], kind, value)
        return name

    def const(self, name, value):
        import tensorflow as tf

        return self.node("Const", name, dtype=tf.as_dtype(np.asarray(value).dtype), value=np.asarray(value))

    def conv(self, name, x, step):
        import tensorflow as tf

        filters, kernel, stride, padding = step
        filters, given = max(int(filters * self.width), 16), self.channels[x]
        scale = (2 / (given * kernel[0] * kernel[1])) ** 0.5
        weights = self.random.normal(0, scale, (*kernel, given, filters)).astype("float32")
        strides = {"strides": [1, stride, stride, 1], "padding": padding, "T": tf.float32}
        y = self.node("Conv2D", f"{name}/Conv2D", x, self.const(f"{name}/conv2d_params", weights), **strides)
        bounds = {"beta": (-0.2, 0.2), "gamma": (0.6, 1.6), "moving_mean": (-0.2, 0.2), "moving_variance": (0.5, 1.5)}
        values = {
            word: self.const(f"{name}/batchnorm/{word}", self.random.uniform(*bound, filters).astype("float32"))
            for word, bound in bounds.items()
        }
        order = [values[word] for word in ("moving_mean", "moving_variance", "beta", "gamma")]
        facts = {"variance_epsilon": 0.001, "scale_after_normalization": True, "T": tf.float32}
        y = self.node("BatchNormWithGlobalNormalization", f"{name}/batchnorm", y, *order, **facts)
        y = self.node("CheckNumerics", f"{name}/CheckNumerics", y, T=tf.float32, message=name)
        self.channels[self.node("Relu", name, y, T=tf.float32)] = filters
        return name

    def pool(self, kind, name, x, side=3, stride=1, padding="SAME"):
        import tensorflow as tf

        sides = {"ksize": [1, side, side, 1], "strides": [1, stride, stride, 1]}
        self.channels[self.node(kind, name, x, **sides, padding=padding, T=tf.float32)] = self.channels[x]
        return name

    def join(self, name, parts):
        import tensorflow as tf

        axis = self.const(f"{name}/concat_dim", np.int32(3))
        self.node("Concat", name, axis, *parts, N=len(parts), T=tf.float32)
        self.channels[name] = sum(self.channels[part] for part in parts)
        return name


def numbered():
    return ("conv" + (f"_{i}" if i else "") for i in itertools.count())


def write_graph_2015(path, size=299, width=1.0, classes=1008, last_pool="MaxPool", scope="", head="softmax", seed=0):
    """Writes the graph for images of a size; returns the path.

    Args:
        last_pool: the pooling of the last block; "AvgPool" is the wrong one.
        scope: what its nodes' names begin with, "import/".
        head: "softmax", that of the archive, or "final_result", that of retrain.py.
    """
    import tensorflow as tf

    b = Builder(width, seed)
    types = {"T": tf.float32}
    b.node("DecodeJpeg", "DecodeJpeg", b.const("DecodeJpeg/contents", np.bytes_(b"")), channels=3)
    b.node("Cast", "Cast", "DecodeJpeg", SrcT=tf.uint8, DstT=tf.float32)
    b.node("ExpandDims", "ExpandDims", "Cast", b.const("ExpandDims/dim", np.int32(0)), **types)
    side = b.const("ResizeBilinear/size", np.array([size, size], "int32"))
    b.node("ResizeBilinear", "ResizeBilinear", "ExpandDims", side, align_corners=False, **types)
    b.node("Sub", "Sub", "ResizeBilinear", b.const("Sub/y", np.float32(128)), **types)
    x = b.node("Mul", "Mul", "Sub", b.const("Mul/y", np.float32(0.0078125)), **types)
    b.channels[x] = 3
    names, pools = numbered(), iter(("pool", "pool_1"))
    for step in STEM:
        x = b.pool("MaxPool", next(pools), x, 3, 2, "VALID") if step == "pool" else b.conv(next(names), x, step)
    for number, towers in enumerate(blocks(last_pool)):
        block, parts = "mixed" + (f"_{number}" if number else ""), []
        for tower, steps in towers.items():
            if tower == "pool":
                parts.append(b.pool("MaxPool", f"{block}/pool", x, 3, 2, "VALID"))
                continue
            y, prefix, names = x, f"{block}/{tower}".rstrip("/"), numbered()
            for step in steps:
                if isinstance(step, list):
                    inner = numbered()
                    parts += [b.conv(f"{prefix}/mixed/{next(inner)}", y, one) for one in step]
                elif isinstance(step, str):
                    y = b.pool(step, f"{prefix}/pool", y)
                else:
                    y = b.conv(f"{prefix}/{next(names)}", y, step)
            if not isinstance(steps[-1], list):
                parts.append(y)
        x = b.join(f"{block}/join", parts)
    features, side = b.channels[x], size
    for before in (0, 2, 2, 0, 0):  # the 3×3 convolutions without padding in front of each halving
        side = (side - before - 3) // 2 + 1
    b.pool("AvgPool", "pool_3", x, side, 1, "VALID")
    shape = b.const("pool_3/_reshape/shape", np.array([1, features], "int32"))
    b.node("Reshape", "pool_3/_reshape", "pool_3", shape, **types)
    weights = b.random.normal(0, 0.05 * features**-0.5, (features, classes)).astype("float32")
    biases = b.random.uniform(-0.2, 0.2, classes).astype("float32")
    if head == "softmax":
        names = ("softmax/weights", "softmax/biases", "softmax/logits/MatMul", "softmax/logits")
        weights, biases = b.const(names[0], weights), b.const(names[1], biases)
    else:
        names = ("final_training_ops/weights/final_weights", "final_training_ops/biases/final_biases")
        names += ("final_training_ops/Wx_plus_b/MatMul", "final_training_ops/Wx_plus_b/add")
        weights, biases = (
            b.node("Identity", f"{name}/read", b.const(name, value), **types)
            for name, value in zip(names, (weights, biases))
        )
    b.node("MatMul", names[2], "pool_3/_reshape", weights, **types)
    b.node("BiasAdd" if head == "softmax" else "Add", names[3], names[2], biases, **types)
    b.node("Softmax", head, names[3], **types)
    if scope:
        for node in b.graph.node:
            node.name = scope + node.name
            node.input[:] = [scope + name for name in node.input]
    path.write_bytes(b.graph.SerializeToString())
    return path


def write_state_dict(path, tensors):
    """Writes arrays as `torch.save` writes a state dict, without PyTorch; whatever else `tensors` holds is pickled."""
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}

    def rebuild(*_):
        raise AssertionError("is not to be called")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    kind = type("FloatStorage", (), {"__module__": "torch"})
    modules["torch._utils"]._rebuild_tensor_v2, modules["torch"].FloatStorage = rebuild, kind

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", kind, value[1], "cpu", 0) if isinstance(value, tuple) and value[:1] == ("of",) else None

        def reducer_override(self, value):
            if not isinstance(value, np.ndarray):
                return NotImplemented
            key, strides = str(len(stored)), tuple(step // 4 for step in value.strides)
            stored[key] = value.tobytes()
            return rebuild, (("of", key), 0, value.shape, strides, False, collections.OrderedDict())

    stored, data = {}, io.BytesIO()
    with unittest.mock.patch.dict(sys.modules, modules), zipfile.ZipFile(path, "w") as archive:
        Pickler(data, 2).dump(collections.OrderedDict(tensors))
        archive.writestr("archive/data.pkl", data.getvalue())
        for key, value in stored.items():
            archive.writestr(f"archive/data/{key}", value)
    return path
