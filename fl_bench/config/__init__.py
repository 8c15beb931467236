"""The config: its keys and types, the rules for values, and what a resumed run may change."""
