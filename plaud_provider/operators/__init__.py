"""Operators that submit recordings."""
