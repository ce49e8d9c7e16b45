"""Run exported models on ONNX Runtime or OpenVINO. Nothing here imports torch."""

from oneclip.runtime.encoder import RuntimeEncoder
from oneclip.runtime.exported_model import DESCRIPTION, ExportedModel, Tower, is_exported
from oneclip.runtime.loading import load_exported

__all__ = ["DESCRIPTION", "ExportedModel", "RuntimeEncoder", "Tower", "is_exported", "load_exported"]
