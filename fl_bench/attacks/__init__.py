"""Clients that do harm: what they train on, what they send, and what they make of it together."""
