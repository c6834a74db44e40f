"""Models in the forms that other programs run. Called as a function, `inception_tf.export` is `formats.export`."""

import sys
import types


class _CallableModule(types.ModuleType):
    """A package that shares its name with the public function."""

    def __call__(self, model, target, format="savedmodel", **options):
        from inception_tf.export import formats

        return formats.export(model, target, format, **options)


sys.modules[__name__].__class__ = _CallableModule
