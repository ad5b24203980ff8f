"""Object storage: kinds, buckets, ranges of a file, errors without secrets."""
