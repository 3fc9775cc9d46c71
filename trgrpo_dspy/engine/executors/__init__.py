"""Where work runs: the driver of flows, threads, and executors beyond this process."""
