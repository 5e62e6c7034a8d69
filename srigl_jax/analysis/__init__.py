"""What a run learned: statistics of its masks, pictures, the table, the report."""
