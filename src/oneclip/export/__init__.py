"""Export models to ONNX and other formats, each compared with the model in torch."""

from oneclip.export.export import ExportReport, export
from oneclip.export.request import PRECISIONS, TARGETS, ExportRequest, Towers, check_request

__all__ = ["PRECISIONS", "TARGETS", "ExportReport", "ExportRequest", "Towers", "check_request", "export"]
