"""A stand-in for Apple's GPU, which computes on the CPU, and has no float64 either."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

MPS = torch.device("mps")


class OnApple(torch.Tensor):
    """A tensor that says it is on `mps`; its `values` are on the CPU."""

    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_wrapper_subclass(
            cls, values.shape, values.stride(), dtype=values.dtype, device=MPS
        )

    def __init__(self, values):
        if values.dtype is torch.float64:
            raise TypeError("the MPS framework doesn't support float64")
        self.values = values

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        inputs = (args, kwargs or {})
        on_cpu = [x for x in tree_leaves(inputs) if torch.is_tensor(x) and not isinstance(x, cls)]
        if any(x.dim() for x in on_cpu):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device")
        args, kwargs = tree_map(lambda x: x.values if isinstance(x, cls) else x, inputs)
        out = func(*args, **kwargs)
        to_cpu = kwargs.get("device") not in (None, MPS)
        return tree_map(lambda x: cls(x) if torch.is_tensor(x) and not to_cpu else x, out)


class Apple(TorchFunctionMode):
    """In here tensors can be moved to `mps`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.to and args[1:] == (MPS,):
            return args[0] if isinstance(args[0], OnApple) else OnApple(args[0])
        return func(*args, **(kwargs or {}))
