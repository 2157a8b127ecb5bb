"""First stage: prompt to tokens to embeddings."""
