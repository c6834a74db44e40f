"""What the blocks of an Inception would cost in a naive design: what the 1×1 convolutions and the factorization save.

Every block is taken on the input that it has in the network. Counted are the weights of its kernels, without biases and
batch norm, and their multiply-adds; the 1×1 convolution after the pooling (the projection) apart, as in "Going Deeper
with Convolutions" (arXiv 1409.4842): on its own it makes no block cheaper, it keeps the next one narrow.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass

import keras

from inception_tf.analysis.profile import POOLINGS
from inception_tf.errors import UsageError

# Where the paper has another kernel than Slim: by network, the side of the square kernels in a branch.
PAPER_KERNELS = {"inception_v1": {"Branch_2": 5}}

DESIGNS = {
    "built": "as the network is built",
    "paper": "with the paper's 5×5 convolutions, which Slim builds as 3×3",
    "unreduced": "without the 1×1 convolutions ahead of larger ones",
    "unfactorized": "with n×n for 1×n and n×1, with 5×5 for two 3×3",
    "naive": "unreduced and unfactorized",
}


@dataclass(frozen=True)
class Kernel:
    """A convolution: (height, width) of its kernel, its filters, and the positions of its output."""

    size: tuple
    filters: int
    positions: int

    def weights(self, channels):
        """Its weights on an input of that many channels."""
        return math.prod(self.size) * channels * self.filters


def naive_blocks(profile):
    """The blocks of a `Profile` beside their naive designs. "The projection" is the 1×1 convolution after the pooling.

    Returns:
        A list of dicts, in order:
            block, end_point: its name, and the end point it is or belongs to.
            channels_in: the channels it takes.
            weights, multiply_adds: of the kernels of every design, without the projection; dicts by the names in
                `DESIGNS`, as far as they apply.
            projection_weights: None where there is none.
            channels: those of its output as `built`, and `unprojected`: the pooling hands on all channels it gets.
            designs: by design, the kernels of every branch: lists of height, width, input channels and filters.
            projection, rest: the kernels of the projection, and of what follows the branches in a residual unit.

    Raises:
        UsageError: the network has no blocks with branches.
    """
    if not profile.blocks:
        raise UsageError(
            f"{profile.name} has no mixed blocks, so there is no naive design to compare with. "
            "The Inceptions have: inception_v1, inception_v2, inception_v3, inception_v4, inception_resnet_v2."
        )
    outputs = {layer.path: layer.output for layer in profile.layers}
    paper = PAPER_KERNELS.get(profile.name, {})
    return [_naive_block(block, outputs, paper) for block in profile.blocks]


def _naive_block(block, outputs, paper):
    branches, projection, pooled = {}, [], False
    side_by_side, *after = block.layer.steps
    for branch in side_by_side:
        kernels = [_kernels(step, f"{block.path}/{branch.name}", outputs) for step in branch.steps]
        kernels = [kernel for kernel in kernels if kernel]
        if isinstance(branch.steps[0], POOLINGS):
            pooled, projection = True, kernels[:1]
        else:
            branches[branch.name] = kernels
    channels = block.input.shape[-1]
    direct = sum(_filters(kernels[-1]) for kernels in branches.values())
    rest = [(_kernels(step, block.path, outputs), direct) for step in after]
    out = rest[-1][0].filters if rest else direct + (sum(map(_filters, projection)) or (channels if pooled else 0))
    weights, multiply_adds, designs = {}, {}, {}
    for design, kernels in _designs(branches, paper).items():
        found = {branch: _with_inputs(steps, channels) for branch, steps in kernels.items()}
        every = [*itertools.chain(*found.values()), *rest]
        weights[design] = sum(kernel.weights(inputs) for kernel, inputs in every)
        multiply_adds[design] = sum(kernel.positions * kernel.weights(inputs) for kernel, inputs in every)
        designs[design] = {branch: _shapes(pairs) for branch, pairs in found.items()}
    return {
        "block": block.path,
        "end_point": block.end_point,
        "channels_in": channels,
        "weights": weights,
        "multiply_adds": multiply_adds,
        "projection_weights": projection[0].weights(channels) if projection else None,
        "channels": {"built": out, "unprojected": direct + channels if pooled else out},
        "designs": designs,
        "projection": _shapes((kernel, channels) for kernel in projection),
        "rest": _shapes(rest),
    }


def _with_inputs(branch, channels):
    """The kernels of a branch that takes so many channels, in order, each with the channels that it takes itself."""
    pairs = []
    for step in branch:
        pairs += [(kernel, channels) for kernel in (step if isinstance(step, list) else [step])]
        channels = _filters(step)
    return pairs


def _shapes(pairs):
    return [[*kernel.size, channels, kernel.filters] for kernel, channels in pairs]


def _kernels(step, path, outputs):
    """The `Kernel` of a convolution, a list of them for layers side by side, None for a pooling."""
    if isinstance(step, list):
        return [_kernels(layer, path, outputs) for layer in step]
    if not isinstance(step, keras.layers.Conv2D):
        return None
    return Kernel(step.kernel_size, step.filters, math.prod(outputs[f"{path}/{step.name}"].shape[:2]))


def _filters(step):
    return sum(kernel.filters for kernel in step) if isinstance(step, list) else step.filters


def _designs(branches, paper):
    designs = {"built": branches}
    if paper:
        branches = dict(branches)
        for name, side in paper.items():
            branches[name] = [
                kernel if kernel.size == (1, 1) else dataclasses.replace(kernel, size=(side, side))
                for kernel in branches[name]
            ]
        designs["paper"] = branches
    designs["unreduced"] = {name: without_reduction(kernels) for name, kernels in branches.items()}
    designs["unfactorized"] = {name: without_factorization(kernels) for name, kernels in branches.items()}
    designs["naive"] = {name: without_factorization(kernels) for name, kernels in designs["unreduced"].items()}
    return designs


def without_reduction(branch):
    """A branch without the 1×1 convolution that it begins with, where others follow."""
    reduces = len(branch) > 1 and not isinstance(branch[0], list) and branch[0].size == (1, 1)
    return branch[1:] if reduces else branch


def without_factorization(branch):
    """A branch with one square kernel for every two that stand for it: 1×n and n×1, after or beside each other; 3×3
    and 3×3. It has the filters and the output of the second, or of both where they are side by side."""
    merged, steps = [], list(branch)
    while steps:
        step, *steps = steps
        if isinstance(step, list):
            sizes = {kernel.size for kernel in step}
            if len(sizes) == 2 and _square(*sizes):
                step = Kernel(_square(*sizes), _filters(step), step[0].positions)
        elif steps and not isinstance(steps[0], list) and (square := _square(step.size, steps[0].size)):
            step, *steps = dataclasses.replace(steps[0], size=square), *steps[1:]
        merged.append(step)
    return merged


def _square(first, second):
    """The size of the kernel that two stand for, or None."""
    if first == second == (3, 3):
        return 5, 5
    if first == second[::-1] and 1 in first and first != (1, 1):
        return max(first), max(first)
    return None
