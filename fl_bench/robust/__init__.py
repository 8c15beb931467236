"""Rules that keep malicious clients out of the mean of any strategy that needs only a mean."""
