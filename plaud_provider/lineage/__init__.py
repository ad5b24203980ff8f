"""What tasks tell lineage backends: where recordings came from, and which tables they went to."""
