"""What lies on disk: files that are whole or not there, tables, tensors, states and checkpoints."""
