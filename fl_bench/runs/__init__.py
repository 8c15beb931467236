"""A run from its config to its files: its process, its parts, and what can be done with it afterwards."""
