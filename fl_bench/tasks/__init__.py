"""What is learned: data, model, loss, metrics and pictures, one file a task."""
