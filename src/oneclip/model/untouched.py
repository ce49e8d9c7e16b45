"""Whether a program outside the library could see or change what runs inside a module.

Texts are computed no further than the token that is pooled, and captions are written with what was computed before,
where nobody can tell. A hook, a patched method or a module of another class could, and then everything is computed.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as hooks_of_all
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

# packages whose code looks at nothing
OWN = frozenset(("oneclip", "clip", "open_clip", "torch", "transformers", "peft"))
SHARDING = "torch.distributed."  # whose hooks gather weights
METHODS = frozenset(("forward", "attention", "__call__", "_call_impl", "_wrapped_call_impl"))
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
GLOBAL_HOOKS = tuple(getattr(hooks_of_all, f"_global{name}") for name in HOOKS)

_CALL = nn.Module.__call__
_FUNCTIONS = {
    name: getattr(F, name) for name in ("multi_head_attention_forward", "scaled_dot_product_attention")
}


def is_untouched(*roots: nn.Module) -> bool:
    """Whether these modules and all below them are as they were built, with no hook registered anywhere.

    False, too, under a global hook, and inside a mode that intercepts torch's functions, such as `FlopCounterMode`.
    """
    if any(GLOBAL_HOOKS) or nn.Module.__call__ is not _CALL:
        return False
    if torch._C._len_torch_dispatch_stack() or not all(map(_places_tensors, _modes())):
        return False
    if any(getattr(F, name) is not function for name, function in _FUNCTIONS.items()):
        return False
    return all(is_plain(module) for root in roots for module in root.modules())


def _modes() -> list[Any]:
    """The modes that torch's functions go through, those of the innermost `with` last."""
    return _get_current_function_mode_stack()  # type: ignore[no-untyped-call, no-any-return]


def _places_tensors(mode: object) -> bool:
    """Whether a mode only says where new tensors go, as `torch.set_default_device` does."""
    return isinstance(mode, DeviceContext)


def is_plain(module: Any) -> bool:
    """Whether one module is of our own or torch's classes, with its own methods and without hooks."""
    state = module.__dict__
    if any(state.get(name) and not _shards(state[name]) for name in HOOKS) or not METHODS.isdisjoint(state):
        return False
    kind = type(module)
    return is_own(kind.forward) and is_own(getattr(kind, "attention", None))


def _shards(hooks: Any) -> bool:
    """Whether all of these hooks are those of torch's own sharding."""
    functions = [getattr(hook, "func", hook) for hook in hooks.values()]  # of partial functions
    return all(str(getattr(function, "__module__", "")).startswith(SHARDING) for function in functions)


@lru_cache(maxsize=1024)
def is_own(function: Any) -> bool:
    """Whether a method was defined by one of these packages; `functools.wraps` cannot hide where it was."""
    names = getattr(function, "__globals__", None)
    return names is None or str(names.get("__name__")).partition(".")[0] in OWN
