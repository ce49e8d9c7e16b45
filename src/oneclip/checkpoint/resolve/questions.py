"""Error messages that ask for missing facts about a checkpoint, with all ways to provide them."""

from __future__ import annotations

from oneclip.checkpoint.resolve.evidence import CheckpointEvidence, DeclaredFacts
from oneclip.checkpoint.resolve.infer_openai import looks_like_openai
from oneclip.checkpoint.resolve.match_architecture import exact_matches, nearest_match, resized_matches
from oneclip.config import ModelCfg


def ask_for_activation(evidence: CheckpointEvidence, declared: DeclaredFacts) -> str:
    """Write the message for a file whose activation is unknown."""
    state_dict, path = evidence.checkpoint.state_dict, evidence.path
    problem = "does not say which activation it was trained with"
    if evidence.is_torchscript:
        problem = "is a TorchScript archive, but not with OpenAI's QuickGELU"
    exact, resized = exact_matches(state_dict), resized_matches(state_dict)
    is_openai_format = looks_like_openai(state_dict)
    if is_openai_format and not exact and not resized:
        return ask_for_missing_facts(evidence, declared)
    if exact:
        examples = " or ".join(f"{arch}:{path}" for arch in exact[:4])
        advice = f"its tensors have the shapes of {', '.join(exact[:6])}: name one, as in {examples}"
    elif resized:
        arch, cfg = next(iter(resized.items()))
        advice = f"its tensors have the shapes of {arch} {describe_sizes(cfg)}"
    else:
        advice = (
            f"{nearest_hint(evidence)}name its architecture, as in ViT-B-32:{path} (or ViT-B-32-quickgelu:{path} for "
            "QuickGELU), or put an open_clip_config.json next to it"
        )
    if exact or is_openai_format:
        advice += "; pass quick_gelu=True or quick_gelu=False in Python"
    if is_openai_format:
        advice += (
            f"; or use clip.load({str(path)!r}) if it is a model of OpenAI: that function assumes QuickGELU"
        )
    return f"{path} {problem}: {advice}"


def ask_for_missing_facts(evidence: CheckpointEvidence, declared: DeclaredFacts) -> str:
    """Write the message for a file in OpenAI's format that has the shapes of no published architecture."""
    path, from_openai = evidence.path, evidence.is_from_openai
    missing = {}
    if declared.quick_gelu is None:
        missing["which activation it was trained with"] = "quick_gelu=True or quick_gelu=False"
    if declared.heads is None and not from_openai:
        missing["how many heads it has"] = "heads=N, or heads=(image tower, text tower)"
    if declared.preprocess is None and not from_openai:
        missing["how images are prepared for it"] = "preprocess='openai', or fields such as mean and std"
    facts, arguments = ", ".join(missing), "; ".join(missing.values())
    kind = ""
    if evidence.is_foreign_torchscript:
        kind = "is a TorchScript archive, but not with OpenAI's QuickGELU; it "
    return (
        f"{path} {kind}has the shapes of no published architecture, and does not say {facts}. Pass it in Python "
        f"({arguments}), put an open_clip_config.json next to the file, or use clip.load({str(path)!r}), which assumes "
        "QuickGELU, heads of width 64, and OpenAI's preprocessing"
    )


def nearest_hint(evidence: CheckpointEvidence) -> str:
    """Name the nearest published architecture, if one is similar."""
    near = nearest_match(evidence.checkpoint.state_dict)
    return f"the nearest published architecture is {near[0]}; " if near and near[1] > 0.6 else ""


def example_name(evidence: CheckpointEvidence) -> str:
    """Return an example of `ARCHITECTURE:path` for a file."""
    exact = exact_matches(evidence.checkpoint.state_dict)
    return f"{exact[0] if exact else 'ViT-B-32'}:{evidence.path}"


def describe_sizes(cfg: ModelCfg) -> str:
    """Describe the image size and the context length of a model."""
    return f"for {cfg.vision_cfg.image_size} pixels and {cfg.text_cfg.context_length} tokens"
