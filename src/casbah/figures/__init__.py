"""Pictures and maps for people, from arrays and products: PNG and self-contained HTML. Knows nothing of stages."""
