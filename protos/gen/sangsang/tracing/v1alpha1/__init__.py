"""Generated from the protos beside this folder; run `make proto`."""
