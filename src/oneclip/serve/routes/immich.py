"""Routes of Immich's machine-learning protocol: POST /predict and GET /ping."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
