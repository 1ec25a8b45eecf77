"""A step of training on forces, by what is frozen: gradients of the weights that learn alone, and of the positions as well.

Forces are derivatives by positions, which stay variables when the loss is differentiated: unless they are left out,
their second derivatives are computed through every block, also of those that are frozen. In one process that takes turns,
float32, one thread, best of some turns; two formate structures of the repository (52 atoms each).

    python -m benchmarks training_steps
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.data import EXAMPLES
from benchmarks.measuring import table
from benchmarks.messages import compared
from mekrr_scale.backbones import Backbone, load_backbone
from mekrr_scale.structures import read_structures
from mekrr_scale.transfer import BlockPlan, Example, TrainPlan, batch_of, read_examples
from mekrr_scale.transfer.training import batch_loss

LEVELS = {
    "chgnet": (None, "conv1", "conv2", "conv3"),
    "sevennet": (None, "interaction1", "interaction3", "interaction5"),
}


def main() -> None:
    torch.set_num_threads(1)
    examples = read_examples(list(read_structures(EXAMPLES / "hcoo_cu110/train.xyz.xz"))[:2])
    rows: list[list[object]] = []
    for network, levels in LEVELS.items():
        backbone = load_backbone(network)
        for level in levels:
            step = partial(_step, backbone, examples, _learning(backbone, level))
            before, after, off = compared(partial(step, alone=False), step)
            rows.append([network, level or "nothing", before, after, before / after, f"{off:.0e}"])
    table(["network", "frozen up to", "of positions too, ms", "of weights alone, ms", "ratio", "off by"], rows)


def _learning(backbone: Backbone, frozen: str | None) -> list[nn.Parameter]:
    parameters = backbone.parameters()
    rates = BlockPlan(freeze_up_to=frozen).learning_rates(list(parameters), 1.0)
    backbone.module.requires_grad_(False)
    found = [weight for block, named in parameters.items() if rates[block] for weight in named.values()]
    for weight in found:
        weight.requires_grad_(True)
    return found


def _step(
    backbone: Backbone, examples: Sequence[Example], learning: Sequence[nn.Parameter], alone: bool = True
) -> Tensor:
    """The gradients of the weights that learn, alone or beside those of all other variables."""
    for weight in learning:
        weight.grad = None
    loss = batch_loss(backbone, batch_of(examples, backbone), TrainPlan(), create_graph=True)[0]
    loss.backward(inputs=learning if alone else None)
    return torch.cat([weight.grad.flatten() for weight in learning if weight.grad is not None])


if __name__ == "__main__":
    main()
