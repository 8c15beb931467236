"""A chain of signed blocks, one a round: who sent what, and what the server has made of it."""
