"""Clients as data: a few workers train many virtual clients, and a fleet lets a strategy speak to each of them."""
