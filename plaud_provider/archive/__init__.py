"""Recordings: how they are referred to, checked and identified. Knows neither tasks nor the API."""
