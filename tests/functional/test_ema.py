"""The moving average of networks against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avsl.functional.ema import ema_update


def _network(seed: int) -> nn.Module:
    """A convolution with batch-norm whose statistics have moved."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    for _ in range(seed + 1):
        network(torch.randn(4, 2, 3, 3))
    return network


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_no_decay_copies_the_student() -> None:
    """β = 0 makes weights and buffers, the batch count included, bitwise equal to the student's."""
    teacher, student = _network(0), _network(4)
    ema_update(teacher, student, 0.0)
    state = student.state_dict()
    assert int(state["1.num_batches_tracked"]) == 5
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999])
def test_several_steps_follow_the_formula(decay: float) -> None:
    """θ ← β θ + (1 − β) θ_student at every step; buffers are the last student's."""
    teacher = _network(0)
    expected = {name: p.detach().double().numpy().copy() for name, p in teacher.named_parameters()}
    student = _network(1)
    for seed in (1, 2, 3):
        student = _network(seed)
        ema_update(teacher, student, decay)
        for name, p in student.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * p.detach().double().numpy()
    for name, p in teacher.named_parameters():
        np.testing.assert_allclose(p.detach().numpy(), expected[name], atol=1e-6)
    for name, buffer in teacher.named_buffers():
        assert torch.equal(buffer, student.get_buffer(name)), name


def test_the_student_is_only_read_and_no_gradient_flows() -> None:
    """The student is unchanged, the teacher's tensors stay leaves without a history."""
    teacher, student = _network(0), _network(1)
    before = _state(student)
    ema_update(teacher, student, 0.5)
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    student(torch.randn(2, 2, 3, 3)).sum().backward()
    for p in teacher.parameters():
        assert p.is_leaf
        assert p.grad is None
    # Own memory: training the student on does not move the teacher.
    held = _state(teacher)
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1.0)
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, held[name]), name


def test_networks_without_buffers_are_averaged_too() -> None:
    """A plain linear layer: halfway between the two."""
    teacher, student = nn.Linear(2, 1), nn.Linear(2, 1)
    middle = (teacher.weight + student.weight).detach() / 2
    ema_update(teacher, student, 0.5)
    torch.testing.assert_close(teacher.weight.detach(), middle)
