"""Checks that a shortcut through a module cannot be noticed from outside: no hook, no patch, no graph being recorded.

Texts are computed up to the pooled token only, and captions are written with cached keys and values, where nobody can
see the difference. A hook, a patched method, a replaced class or a recorded graph could; then everything is computed.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_hooks
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

# packages whose modules do not observe their inputs
OWN = frozenset(("oneclip", "clip", "open_clip", "torch", "transformers", "peft"))
SHARDING = "torch.distributed."  # whose hooks gather weights
METHODS = frozenset(("forward", "attention", "__call__", "_call_impl", "_wrapped_call_impl"))
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
GLOBAL_HOOKS = tuple(getattr(torch_hooks, f"_global{name}") for name in HOOKS)

_CALL = nn.Module.__call__
_FUNCTIONS = {
    name: getattr(F, name) for name in ("multi_head_attention_forward", "scaled_dot_product_attention")
}


def is_recorded() -> bool:
    """Return True while a graph is recorded: it must serve inputs of other lengths and contain every module."""
    return is_tracing() or torch.compiler.is_compiling()


def is_tracing() -> bool:
    """Return True while `torch.jit.trace` records."""
    return bool(torch.jit.is_tracing())  # type: ignore[no-untyped-call]


def is_untouched(*roots: nn.Module) -> bool:
    """Return True if these modules and all below them are as they were built, without hooks.

    False also under a global hook, and inside a mode that intercepts torch's functions, such as `FlopCounterMode`.
    """
    if any(GLOBAL_HOOKS) or nn.Module.__call__ is not _CALL:
        return False
    if torch._C._len_torch_dispatch_stack() or not all(map(_places_tensors, _modes())):
        return False
    if any(getattr(F, name) is not function for name, function in _FUNCTIONS.items()):
        return False
    return all(is_plain(module) for root in roots for module in root.modules())


def _modes() -> list[Any]:
    return _get_current_function_mode_stack()  # type: ignore[no-untyped-call]


def _places_tensors(mode: object) -> bool:
    """Return True if a mode only sets the device of new tensors, as `torch.set_default_device` does."""
    return isinstance(mode, DeviceContext)


def is_plain(module: Any) -> bool:
    """Return True if a module has a class of this library or of torch, its own methods and no hooks."""
    state = module.__dict__
    if any(state.get(name) and not _shards(state[name]) for name in HOOKS) or not METHODS.isdisjoint(state):
        return False
    kind = type(module)
    return is_own(kind.forward) and is_own(getattr(kind, "attention", None))


def _shards(hooks: Any) -> bool:
    """Return True if all of these hooks belong to torch's own sharding."""
    functions = [getattr(hook, "func", hook) for hook in hooks.values()]  # of partial functions
    return all(str(getattr(function, "__module__", "")).startswith(SHARDING) for function in functions)


@lru_cache(maxsize=1024)
def is_own(function: Any) -> bool:
    """Return True if a method was defined in one of `OWN`; `functools.wraps` cannot hide where it was defined."""
    names = getattr(function, "__globals__", None)
    return names is None or str(names.get("__name__")).partition(".")[0] in OWN
