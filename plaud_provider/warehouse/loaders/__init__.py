"""How rows get into each kind of warehouse; which kind has which loader is in :mod:`.choice`."""
