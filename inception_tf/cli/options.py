"""Options that several commands take."""


def add_loading(parser):
    """How a Slim checkpoint is loaded."""
    parser.add_argument("--network", help="the network, when detection is not to decide")
    parser.add_argument("--scope", help="the variable scope in the checkpoint, when detection is not to decide")
    parser.add_argument(
        "--ema", choices=("auto", "require", "ignore"), default="auto", help="moving averages of the weights (auto)"
    )
    parser.add_argument("--batch-norm-epsilon", type=float, metavar="E", help="that of the training (Slim's own)")
    parser.add_argument("--batch-norm-decay", type=float, metavar="D", help="that of the training (Slim's own)")


def batch_norm(args):
    """What `add_loading` says of batch norm, as options of a network."""
    given = {name: getattr(args, name) for name in ("batch_norm_epsilon", "batch_norm_decay")}
    return {name: value for name, value in given.items() if value is not None}


def add_precision(parser):
    """What a Keras model computes in."""
    kinds = ("float32", "bfloat16")
    parser.add_argument("--precision", choices=kinds, help="have XLA compute a Keras model in it (as the model is)")


def add_decoding(parser):
    """How photographs are decoded."""
    parser.add_argument("--exif", action="store_true", help="turn photographs as their EXIF orientation says")
    fast = "decode large JPEGs to a half, a quarter or an eighth, where that suffices; answers change a little"
    parser.add_argument("--fast-decode", action="store_true", help=fast)


# What `open_engine` takes.
MODEL = (
    "a .keras file, a run's directory, a SavedModel directory, a .tflite, .onnx, .stablehlo or OpenVINO .xml file, a "
    "Slim checkpoint, or the name of published weights, such as imagenet"
)


def model_needs_keras(args):
    """Whether the model that a command was given is one of Keras; a command's `KERAS`."""
    from inception_tf.inference.engines import needs_keras

    return needs_keras(args.model)
