"""The mesh in virtual time, driven by the policy objects that serve."""
