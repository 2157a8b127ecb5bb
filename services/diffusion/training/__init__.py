"""The recipe that trains `pocket`, the model that ships with the mesh, from scratch on a CPU."""
