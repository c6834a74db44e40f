"""Keras models to StableHLO by `jax.export`: one compiled program for processors, GPUs and TPUs."""

import keras
import numpy as np

from inception_tf.exports.driver import external_converter, image_shape
from inception_tf.exports.portable import PortableFormat, exported_outputs, pooled
from inception_tf.inference.runtimes import KEY, StableHlo
from inception_tf.inference.xla import stateless
from inception_tf.models.fused import fuse_for_inference
from inception_tf.models.model import with_dtype

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


class StableHloFormat(PortableFormat):
    """What `jax.export` serializes, a `.stablehlo` file, and the weights beside it, a `.safetensors`.

    `jax.export.deserialize` reads the former: a function from the weights, a dict by the names in the latter, and
    `images` (float32 N×H×W×C, preprocessed) to `probabilities` (float32 N×classes), for PLATFORMS; with the option
    `features` to a list of these and PreLogits. The model's card, with its preprocessing and its labels, is in the
    metadata of the weights as "inception_tf", JSON. Of precision "bfloat16", weights and operations are, while inputs
    and outputs stay float32.
    """

    name, weights_suffix = "stablehlo", ".safetensors"
    options = ("labels", "batch", "precision", "held_out", "check", "overwrite", "fuse", "features")
    precisions = ("float32", "bfloat16")
    packages = ("jax", "safetensors", "flatbuffers")
    backend = "jax"
    runtime = StableHlo

    def convert(self, export):
        """(what is serialized, a dict of the weights)."""
        import jax
        from jax import export as jax_export

        # XLA has the siblings merged: on a GPU fewer and wider convolutions pay.
        network = fuse_for_inference(export.model) if export.options.fuse else export.model
        network = with_dtype(network, export.options.precision)
        if export.options.features:
            network = keras.Model(network.inputs[0], [network.outputs[0], network.features])
        weights, run = stateless(network)
        weights = {name: np.asarray(value) for name, value in weights.items()}

        def outputs(weights, images):
            if not export.options.features:
                return keras.ops.cast(exported_outputs(lambda x, **_: run(weights, x), export.model, images), "float32")
            scores, features = run(weights, images)
            scores, features = export.model.as_probabilities(scores), pooled(features)
            return [keras.ops.cast(value, "float32") for value in (scores, features)]

        with external_converter(f"jax.export cannot export {export.model.name}"):
            batch = export.options.batch or jax_export.symbolic_shape("batch")[0]
            images = jax.ShapeDtypeStruct((batch, *image_shape(export.model)), np.float32)
            return jax_export.export(jax.jit(outputs), platforms=PLATFORMS)(weights, images).serialize(), weights

    def save(self, export, network, path, card=None):
        from safetensors.numpy import save

        program, weights = network
        path.write_bytes(program)
        path.with_suffix(self.weights_suffix).write_bytes(save(weights, card and {KEY: card.to_json()}))

    def add_card(self, export, network, path, card):
        self.save(export, network, path, card)
