"""How recordings are submitted, each of them once."""
