"""Who is told of each round when it is over: tables, pictures, run.json, checkpoints, the console."""
