"""Groups of tasks to be put into a DAG in one line."""
