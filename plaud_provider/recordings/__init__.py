"""Recordings: how they are referred to, identified, measured, signed and listed."""
