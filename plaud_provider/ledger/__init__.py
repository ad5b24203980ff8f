"""Who may pay for what: one row for each recording."""
