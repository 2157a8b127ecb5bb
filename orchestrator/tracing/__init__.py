"""The last traces, kept in memory, and what they show: see README.md."""
