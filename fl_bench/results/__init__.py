"""What a run leaves behind: tables, pictures and the record of how it was made."""
