"""Route for plain image bytes: POST /v1/images/embed."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
