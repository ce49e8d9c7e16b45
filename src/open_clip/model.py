"""`open_clip.model`: the dual encoders of `oneclip.model` and their configurations."""

from oneclip.config import CLIPTextCfg, CLIPVisionCfg
from oneclip.model import CLIP, CustomTextCLIP

__all__ = ["CLIP", "CLIPTextCfg", "CLIPVisionCfg", "CustomTextCLIP"]
