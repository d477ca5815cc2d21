"""Two models: the path between them, and how alike they are."""
