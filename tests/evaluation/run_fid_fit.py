"""FID in `model.fit`, on the backend that KERAS_BACKEND names: prints what its three ways answered, as JSON.

python run_fid_fit.py MODEL REAL
"""

import json
import sys

import keras
import numpy as np

import inception_tf as itf
from inception_tf.errors import UsageError


def main(model, real):
    first = itf.metrics.FID(real, model=model, batch=8)
    noise = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
    targets = np.zeros((16, 16, 16, 3), "float32")

    def generator(metrics=(), **options):
        layers = [keras.layers.Dense(768, "sigmoid"), keras.layers.Reshape((16, 16, 3)), keras.layers.Rescaling(255)]
        model = keras.Sequential([keras.Input((8,)), *layers])
        for value, number in zip(model.trainable_variables, (0.5, 0.1)):
            value.assign(np.random.default_rng(1).normal(size=value.shape) * number)
        model.compile(keras.optimizers.SGD(0.0), "mse", metrics=list(metrics), **options)
        return model

    def fitted(model, callbacks=()):
        history = model.fit(noise, targets, batch_size=8, shuffle=False, verbose=0, callbacks=list(callbacks)).history
        return history["fid"][-1]

    model, rest = generator(), [noise]

    def generate(count):
        some, rest[0] = rest[0][:count], rest[0][count:]
        return model.predict(some, verbose=0)

    found = {
        "real": first.real.mu.tolist(),
        "callback": fitted(model, [itf.metrics.FIDCallback(generate, first, count=16)]),
    }
    first.reset_state()
    first.update_state(model.predict(noise, verbose=0))
    found["alone"] = first.result()
    found["eager"] = fitted(generator([itf.metrics.FID(first.real, first.extractor)], run_eagerly=True))
    try:
        fitted(generator([itf.metrics.FID(first.real, first.extractor)]))
    except UsageError as error:
        found["compiled"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
