"""The containers that a checkpoint comes in, one file each.

A container is a subclass of `base.Checkpoint` and a function `try_open(source, path)`: `source` is what the user named,
for messages, and `path` the file, prefix or directory to open. It returns a `Checkpoint`, or None where `path` is of
another kind. A new one is a file here and its line in `CONTAINERS` of checkpoint.py. To be found in directories and
archives too, its files must be known to `archives.candidates`.
"""
