"""A GPU that is none: numbers of the host behind tensors that claim to be on another device.

Whatever reaches torch's dispatcher is computed on the CPU, by the same kernels; an operation that takes tensors of
both devices raises, as CUDA's does, and so does ``numpy()``. So every mixing of devices is found on any machine, and
results must be those of the CPU.

    with device() as gpu:
        FitPlan(execution=gpu)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "emulated"
ASKED = "EMULATED_DEVICE" in os.environ  # for all of this process
HERE = f"{NAME}:0"
FREE = 2**30  # bytes that the device says it has

_aten = torch.ops.aten
_COPIES = {_aten.copy_.default, _aten._to_copy.default}
# torch takes indices of the host for tensors on a device
_INDEXED = {
    _aten.index.Tensor,
    _aten.index_put_.default,
    _aten.index_put.default,
    _aten._index_put_impl_.default,
    _aten._unsafe_index.Tensor,
    _aten._unsafe_index_put.default,
}


class MixedDevicesError(RuntimeError):
    """What CUDA answers with 'Expected all tensors to be on the same device'."""


class There(Tensor):
    """A tensor that claims to be on the device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        return Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(HERE),
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self) -> str:
        return f"There({self.held})"

    def tolist(self):
        return self.held.tolist()

    def numpy(self, *_, **__):
        raise TypeError(f"can't convert {HERE} device type tensor to numpy")

    def __array__(self, *_, **__):
        raise TypeError(f"can't convert {HERE} device type tensor to numpy")

    def pin_memory(self, *_):
        raise RuntimeError("cannot pin a tensor of a device")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _dispatched(func, args, kwargs or {})


class _Everywhere(TorchDispatchMode):
    """For what makes tensors without taking any: zeros on the device, and copies to it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _dispatched(func, args, kwargs or {})


def _there(device: object) -> bool:
    return device is not None and torch.device(device).type == NAME


def _check(func, tensors) -> None:
    there = [t for t in tensors if isinstance(t, There)]
    here = [t for t in tensors if not isinstance(t, There) and t.dim() > 0]
    if there and here:
        shapes = [tuple(t.shape) for t in there], [tuple(t.shape) for t in here]
        raise MixedDevicesError(f"{func} of tensors on both devices: {shapes[0]} there, {shapes[1]} in the host")


def _check_indexed(func, args) -> None:
    flat = tree_flatten(args[1])[0]
    if not isinstance(args[0], There) and any(isinstance(t, There) for t in flat):
        raise MixedDevicesError(f"{func}: a tensor of the host with indices on the device")
    if len(args) > 2 and isinstance(args[2], Tensor) and args[2].dim() > 0:
        _check(func, [args[0], args[2]])


def _dispatched(func, args, kwargs):
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    if func in _INDEXED:
        _check_indexed(func, args)
    elif func not in _COPIES:
        _check(func, tensors)
    device = kwargs.get("device")
    plain = {k: (torch.device("cpu") if k == "device" and v is not None else v) for k, v in kwargs.items()}
    plain.pop("pin_memory", None)
    result = func(*tree_map(_held, args), **tree_map(_held, plain))
    name = func._schema.name
    if func is _aten.copy_.default or (name.endswith("_") and not name.endswith("__")):
        return args[0] if func._schema.returns else None  # of a list of tensors: nothing
    if "out" in kwargs:
        return kwargs["out"]
    if device is not None:
        there = _there(device)
    else:
        there = isinstance(args[0], There) if func in _COPIES else any(isinstance(t, There) for t in tensors)
    return tree_map(lambda x: There(x) if isinstance(x, Tensor) else x, result) if there else result


def _held(value):
    return value.held if isinstance(value, There) else value


def _pushed(function, points, moves):
    """What ``torch.func.jvp`` gives, by two reverse sweeps: its own crashes on tensors without a storage."""
    at = [point.detach().requires_grad_(True) for point in points]
    with torch.enable_grad():
        value = function(*at)
        seed = torch.zeros_like(value, requires_grad=True)
        pulled = torch.autograd.grad(value, at, seed, create_graph=True, allow_unused=True, materialize_grads=True)
        slope = torch.autograd.grad(pulled, seed, moves, allow_unused=True, materialize_grads=True)[0]
    return value.detach(), slope.detach()


def _one_by_one(function):
    """``torch.func.vmap`` as the loop that it stands for."""

    def looped(*arguments):
        found = [function(*row) for row in zip(*arguments, strict=True)]
        if isinstance(found[0], tuple):
            return tuple(torch.stack(parts) for parts in zip(*found, strict=True))
        return torch.stack(found)

    return looped


@cache
def register() -> bool:
    """Make the device's name known to torch, once in a process and before autograd counts its devices."""
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as set_up
    except ImportError:  # before 2.10
        return False
    set_up(NAME)
    return True


@contextmanager
def device() -> Iterator[str]:
    """The name of a device, which is there within the context."""
    if not register():
        pytest.skip("this torch has no devices that are written in Python")
    made, forward, batched = torch.tensor, torch.func.jvp, torch.func.vmap

    def tensor(data, *args, device=None, **options):
        found = made(data, *args, **options)
        return found.to(device) if _there(device) else found

    def jvp(function, points, moves):
        any_there = any(isinstance(point, There) for point in points)
        return (_pushed if any_there else forward)(function, points, moves)

    def vmap(function):
        def mapped(*arguments):
            return (_one_by_one if isinstance(arguments[0], There) else batched)(function)(*arguments)

        return mapped

    patches = [(torch, "tensor", tensor), (torch.func, "jvp", jvp), (torch.func, "vmap", vmap)]
    with ExitStack() as stack:
        for place, name, replacement in patches:
            stack.enter_context(mock.patch.object(place, name, replacement))
        stack.enter_context(_Everywhere())
        yield HERE
