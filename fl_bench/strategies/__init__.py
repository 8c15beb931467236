"""The algorithms: a client half each, and a server half where Flower has none."""
