"""
A transaction on any database, and what differs from one kind to the next.

:mod:`.database` finds the database behind an Airflow connection, and runs work in a transaction. What a kind
does in its own way is in the file with its name; :mod:`.dialect` has what they share.
"""
