"""The containers that a checkpoint comes in, one file each.

A container is a subclass of `base.Checkpoint` and a function `open_here(given, place)` that returns one, or None where
`place` is of another kind. A new one is a file here and its place in `CONTAINERS` in checkpoint.py. To be found in
directories and archives too, its files must be known to `archives.candidates`.
"""
