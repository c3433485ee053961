"""Pure tensor functions: the arithmetic of the papers, without state, files or configuration."""
