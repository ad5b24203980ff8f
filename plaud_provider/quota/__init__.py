"""Where the quota of requests is kept that all processes of a host, or of several, share for one client."""
