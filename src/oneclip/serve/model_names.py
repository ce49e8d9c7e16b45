"""Names by which clients may ask for the model that is served."""

from __future__ import annotations

from oneclip import zoo
from oneclip.errors import UnknownModelError
from oneclip.serve.errors import RequestError
from oneclip.serve.state import ServerState

_SEPARATORS = ("__", "::")  # Immich writes ARCHITECTURE__tag, formerly ARCHITECTURE::tag


def check_model(requested: str | None, state: ServerState) -> str:
    """Check the name of a model in a request.

    Args:
        requested: the name served, an alias, or another spelling of either; None for whatever is served.
        state: of a server whose model is loaded.

    Returns:
        The name of the model that is served.

    Raises:
        RequestError: 404, if another model is requested.
    """
    assert state.embedder is not None, "a route depends on `ready_embedder`"
    served = state.embedder.encoder.name
    names = (served, *state.settings.aliases)
    if requested is None or requested in names or _identity(requested) in map(_identity, names):
        return served
    also = f" (also as {', '.join(state.settings.aliases)})" if state.settings.aliases else ""
    raise RequestError(
        404,
        f"the model {requested[:200]!r} is not served here; this server has {served}{also}. To serve that under the "
        f"name that you requested, start the server with --alias {requested[:200]!r}",
        param="model",
        code="model_not_found",
    )


def _identity(name: str) -> str:
    """Return a text that is equal for all spellings of a model's name.

    The catalogue alone decides; unlike `zoo.resolve`, this never looks for a file that a client has named.
    """
    for separator in _SEPARATORS:
        name = name.replace(separator, ":", 1)
    if name in zoo.OPENAI_NAMES:
        name += ":openai"
    arch, colon, tag = name.partition(":")
    if colon and arch != zoo.HUB_PREFIX.rstrip(":"):
        try:
            return _weights_name(zoo.pretrained(arch, tag))
        except UnknownModelError:
            return name
    address = zoo.parse_hub_address(name)
    if address is None or "/" not in address.repo:
        return name
    if address.subfolder is None and address.revision is None:
        for arch, tag in zoo.all_pretrained():
            if zoo.pretrained(arch, tag).hf_hub == address.repo:
                return _weights_name(zoo.pretrained(arch, tag))
    return str(address)


def _weights_name(weights: zoo.Pretrained) -> str:
    """Return ARCHITECTURE:tag; the base stands for an architecture that only adds QuickGELU to it."""
    return f"{weights.architecture.removesuffix('-quickgelu')}:{weights.tag}"
