"""Who exchanges models with whom: a star, edge servers below a cloud, or a graph without a server."""
