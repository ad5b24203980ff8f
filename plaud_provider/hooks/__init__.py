"""The hook, its async twin, and the transports that send for them."""
