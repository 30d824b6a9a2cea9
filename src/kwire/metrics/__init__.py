"""Numbers for Prometheus: what there is to measure, its text, and who serves it."""
