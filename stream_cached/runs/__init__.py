"""Who runs the endpoint: runs in this process, leases and runs of other processes."""
