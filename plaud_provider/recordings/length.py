"""Lengths of recordings, as people say them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return a length as people say it, such as ``1 h 12 min``."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{max(seconds, 0):.0f} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"
