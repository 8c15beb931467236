"""What keeps what a client sends from telling too much of its data."""
