"""What an update, or a model, tells of the examples that it was made of."""
