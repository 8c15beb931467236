"""What travels instead of float32: codecs from a vector to bytes and back."""
