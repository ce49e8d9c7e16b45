"""Routes of search: POST /v1/search, GET /v1/indexes, and thumbnails by content."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
