"""
Requests a minute: one quota for all who use the same client, on a host or on several.

``rule`` is the sliding window (pure), ``breaker`` the circuit breaker of submits (pure), ``clock`` the time
that both go by, ``stores`` and ``sql_store`` are where all three are kept, as a ``document``, ``turns`` is
how a call waits, ``opening`` finds a connection's quota.
"""
