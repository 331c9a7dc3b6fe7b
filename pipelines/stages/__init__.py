"""One file per kind of job: only what differs."""
