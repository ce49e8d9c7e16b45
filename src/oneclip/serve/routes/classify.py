"""Route of zero-shot classification: POST /v1/classify."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
