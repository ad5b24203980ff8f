"""What tasks and triggers leave for each other at results_path."""
