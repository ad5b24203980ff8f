"""Warehouse tables and the writers that fill them. Knows neither tasks nor HTTP."""
