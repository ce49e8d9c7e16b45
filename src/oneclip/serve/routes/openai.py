"""Route of OpenAI's protocol: POST /v1/embeddings, and GET /v1/models."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
