"""The engine boundary and one file for each backend."""
