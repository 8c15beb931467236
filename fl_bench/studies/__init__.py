"""From the folders of runs to answers."""
