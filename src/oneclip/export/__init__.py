"""Export models to ONNX and other formats, each compared with the model in torch."""

from oneclip.export.export import ExportReport, export

__all__ = ["ExportReport", "export"]
