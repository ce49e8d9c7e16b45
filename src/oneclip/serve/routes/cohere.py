"""Route of Cohere's protocol: POST /v2/embed."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
