"""Arrays on disk that every worker maps into its memory, and who holds which of their rows."""
