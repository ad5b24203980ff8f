"""Pages in Airflow's UI, and what Plaud calls. They run in Airflow's API server."""
