"""Muon for convolutions and matrices, AdamW for everything else, as one optimizer.

Orthogonalised momentum (Jordan et al. 2024) gives rare directions as large a step as frequent ones;
hundreds of concepts that each turn up once in a few dozen updates are just that. On this model it
reaches a given loss in clearly fewer updates than AdamW at a cost of a few percent a step.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Steps matrices by orthogonalised momentum and all other parameters by AdamW."""

    def __init__(
        self,
        modules: Iterable[nn.Module],
        rate: float = 0.01,
        adam_rate: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        modules = list(modules)
        matrices = [p for module in modules for p in _matrices(module)]
        known = {id(p) for p in matrices}
        others = [p for module in modules for p in module.parameters() if id(p) not in known]
        groups = [
            {"params": matrices, "lr": rate, "peak": rate, "muon": True},
            {"params": others, "lr": adam_rate, "peak": adam_rate, "muon": False},
        ]
        super().__init__(groups, {"momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = _shared_state(parameter, group["muon"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the moments where every process of a crew sees them.

        torch puts tensors of this process alone in their place: the next checkpoint would then hold
        the old moments of whatever another process owns.
        """
        shared = dict(self.state)
        super().load_state_dict(state_dict)
        for parameter, state in shared.items():
            for name, tensor in state.items():
                tensor.copy_(self.state[parameter][name])
            self.state[parameter] = state

    def scale_rates(self, factor: float) -> None:
        """Sets every group's rate to `factor` times its peak."""
        for group in self.param_groups:
            group["lr"] = group["peak"] * factor

    @torch.no_grad()
    def step_only(self, owned: set[int]) -> None:
        """Updates the parameters whose `id` is in `owned`: the share of one process of a crew."""
        for group in self.param_groups:
            update = self._muon if group["muon"] else self._adam
            for parameter in group["params"]:
                if id(parameter) in owned:
                    update(parameter, group)

    def _muon(self, parameter: Tensor, group: dict) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        nesterov = gradient.lerp(state["momentum"], group["momentum"])
        matrix = nesterov.flatten(1)
        # A step's size must not depend on the matrix's shape.
        size = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        step = orthogonalised(matrix).view_as(parameter)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(step, alpha=-group["lr"] * size)

    def _adam(self, parameter: Tensor, group: dict) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        state["step"] += 1
        count = state["step"].item()
        state["mean"].lerp_(gradient, 0.1)
        state["square"].lerp_(gradient.square(), 0.02)
        scale = (state["square"] / (1 - 0.98**count)).sqrt_().add_(1e-8)
        parameter.addcdiv_(state["mean"], scale, value=-group["lr"] / (1 - 0.9**count))


def orthogonalised(matrix: Tensor) -> Tensor:
    """Returns roughly the nearest semi-orthogonal matrix, by five Newton-Schulz iterations.

    Every iterate is a polynomial of the Gram matrix times the input, so the iterations run on the
    small Gram matrix and touch the long side only twice: 1.7 times as fast on convolutions.
    """
    a, b, c = _NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm() + 1e-7)
    gram = x @ x.mT
    product = torch.eye(len(gram))
    for _ in range(_ITERATIONS):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return x.mT if tall else x


def _shared_state(parameter: Tensor, muon: bool) -> dict[str, Tensor]:
    """Allocates the moments at once and in shared memory: any process may own the parameter."""
    names = ("momentum",) if muon else ("mean", "square")
    state = {name: torch.zeros_like(parameter).share_memory_() for name in names}
    return state if muon else state | {"step": torch.zeros(()).share_memory_()}


def _matrices(module: nn.Module) -> list[Tensor]:
    """The weights of hidden layers: not embeddings, norms, biases or a few channels' ends."""
    return [
        layer.weight
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and min(layer.weight.flatten(1).shape) > 24
    ]
