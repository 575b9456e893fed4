"""Public prompt lists: each module turns one form of file into items."""
