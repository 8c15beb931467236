"""Real machines: a link between them, a process at each site, and the driver, which is the run's server."""
