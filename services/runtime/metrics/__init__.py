"""What a process counts and times about itself, for Prometheus to fetch."""
