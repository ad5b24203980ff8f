"""
The Plaud API without I/O: models, requests, and the decisions of every call.

Nothing here opens a socket, reads a clock of its own or knows Airflow (errors apart, which are Airflow's
kind of exception). It is the only place that knows the wire format.
"""
