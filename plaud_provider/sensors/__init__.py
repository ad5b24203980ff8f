"""Sensors that wait for transcriptions."""
