"""Routes of the web page: its HTML, modules and style."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
