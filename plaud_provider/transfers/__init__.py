"""Operators that land transcriptions in warehouse tables."""
