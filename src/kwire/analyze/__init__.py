"""Questions to captures: SQL, export, statistics, and captures made from captures."""
