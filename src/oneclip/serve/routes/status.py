"""Routes about the server itself: health, readiness, metrics, documentation."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
